"""What a person reads: the page and closing lines of one run, and the comparison of many."""
