"""The differentiable rasterizer: project, bin, blend, render."""
