"""A small autoencoder of pictures, trained here on renders."""
