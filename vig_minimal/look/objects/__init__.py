"""What a detector finds, and what those objects read from."""
