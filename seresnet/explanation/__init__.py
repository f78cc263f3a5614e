"""Explanations: Grad-CAM, and the gates of each squeeze-and-excitation block."""
