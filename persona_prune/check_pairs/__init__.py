"""``python -m persona_prune.check_pairs``: what a stranger could exploit in persona pairs."""
