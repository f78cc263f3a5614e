"""Benchmarks: models and engines timed side by side, and their report."""
