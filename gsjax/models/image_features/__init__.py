"""Frozen image encoders: pictures to feature maps, one file a kind."""
