"""Classification and segmentation of point clouds, on any backbone, from scratch or pre-trained."""
