"""Find, apply and measure persona subnetworks of pretrained language models (arXiv 2602.07164)."""
