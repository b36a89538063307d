"""The language model and what it says: loading, chat text, rows of tokens, likelihood, generation."""
