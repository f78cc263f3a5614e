"""From a model's name to predictions and embeddings: the classifier, its cache, its contact sheet."""
