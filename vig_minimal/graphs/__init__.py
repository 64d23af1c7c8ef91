"""The graph contract (graph), features flowing along edges (aggregate, gatv2), tools to pick edges (the others)."""
