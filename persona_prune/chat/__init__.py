"""Talking to the dense model and its personas side by side."""
