"""Look up the probability of one displacement at each control point."""
