"""A small image/text pair, trained here on renders and captions."""
