"""Graphs, and aggregation along their edges."""
