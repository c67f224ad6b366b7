"""`make bench`: how much the workers cost, as ratios and counts that mean the same on every machine."""
