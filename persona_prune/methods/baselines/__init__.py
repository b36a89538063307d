"""Baselines: other ways to make a model answer as a persona, by the same protocol and without a mask."""
