"""Quantize a model to int8 and report accuracy, size and speed."""
