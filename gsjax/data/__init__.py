"""Data sets as TFDS builders, grain sources and transforms."""
