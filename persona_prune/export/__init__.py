"""``python -m persona_prune.export``: a persona as a checkpoint of its own."""
