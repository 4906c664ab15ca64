"""Short forms of blocks, which stand for other blocks."""
