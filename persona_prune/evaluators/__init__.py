"""Evaluators: one file each, the same protocol."""
