"""From a command line to a finished run directory, and sweeps of them."""
