"""Parts of the backend `mosaic_tpu`."""
