"""Fitting 3D Gaussians to posed images, one scene or many at once."""
