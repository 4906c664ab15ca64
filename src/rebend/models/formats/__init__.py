"""Weights in other formats than a hub folder's, converted to ordinary checkpoints; one file per format."""
