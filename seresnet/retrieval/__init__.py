"""Embeddings of many images in a file, and the search for similar ones."""
