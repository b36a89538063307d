"""Methods that score weights: one file each, pure tensor maths."""
