"""Batches of images whose targets are objects, or a class for every pixel."""
