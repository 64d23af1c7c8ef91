"""Train variants of one model alike, and compare them."""
