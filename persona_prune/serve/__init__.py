"""An OpenAI-compatible server: one model, many personas, one thread that owns the weights."""
