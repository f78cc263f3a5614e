"""Checks of labelled images: what would spoil a training run."""
