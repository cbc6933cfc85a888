"""Feed-forward 3D Gaussian splatting with PM-Loss (arXiv 2506.05327)."""
