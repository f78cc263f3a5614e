"""One model, several engines: each turns normalised batches into logits and embeddings as NumPy arrays."""
