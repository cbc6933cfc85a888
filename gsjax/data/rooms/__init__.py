"""Procedural furnished rooms: exact pictures, depth, labels and point clouds, with no downloads."""
