"""Squared local correlation of two images under a displacement field, with its gradient."""
