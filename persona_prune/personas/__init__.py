"""Who the model is to become, and what shows it: personas, pairs, questions, and the files they come in. No torch."""
