"""UniPre3D (arXiv 2506.09952)."""
