"""`make bench`: what the workers cost, in ratios and counts that mean the same on every machine."""
