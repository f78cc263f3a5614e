"""Evaluation of a classifier on labelled images, and its report."""
