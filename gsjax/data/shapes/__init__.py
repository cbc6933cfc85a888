"""Parametric shapes with exact normals and the objects built of them."""
