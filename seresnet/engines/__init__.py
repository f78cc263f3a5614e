"""One model, several engines: each turns preprocessed batches into logits and embeddings as NumPy arrays."""
