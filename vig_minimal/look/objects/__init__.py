"""Outputs of detectors and segmentation networks, and the sources that their objects read from."""
