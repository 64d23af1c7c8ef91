"""What a graph is, and what flows along its edges."""
