"""SE-ResNets: the networks, their weights, prediction, training and evaluation."""
