"""The networks. Imports torch and nothing else of the package."""
