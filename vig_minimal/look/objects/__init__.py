"""What a detector or a network for segmentation finds, and what those objects read from."""
