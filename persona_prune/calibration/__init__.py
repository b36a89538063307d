"""What a mask is made from: pairs, the model's own answers, neutral text, signatures, gradients, damage."""
