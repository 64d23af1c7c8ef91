"""One network, one file, in the paper's order."""
