"""Parts of the backend `mosaic_gpu`."""
