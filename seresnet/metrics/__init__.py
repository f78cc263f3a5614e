"""Metrics as numbers; training and evaluation both use them."""
