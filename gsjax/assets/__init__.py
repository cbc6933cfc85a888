"""Small weights of our own training, each with its recipe and licence."""
