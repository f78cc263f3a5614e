"""The networks. This floor imports torch and nothing else of the package."""
