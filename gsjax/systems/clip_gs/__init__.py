"""CLIP-GS (arXiv 2412.19142)."""
