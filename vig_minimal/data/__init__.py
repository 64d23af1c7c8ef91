"""Images and labels in."""
