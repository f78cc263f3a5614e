"""From a name to verified weights: the index, the Hub, safe reading, conversion of keys, saving. Imports no torch."""
