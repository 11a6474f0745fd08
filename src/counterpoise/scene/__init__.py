"""What is where in an image, and how it is related: segmentation, objects and scene graphs."""
