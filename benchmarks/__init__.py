"""Speed, memory and size of persona_prune, each beside a plain reference and beside what the hardware allows."""
