"""What masks are: how they overlap, what they do to hidden states, and which Linears carry their effect."""
