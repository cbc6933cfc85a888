"""One folder per published system."""
