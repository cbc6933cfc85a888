"""File formats, in NumPy."""
