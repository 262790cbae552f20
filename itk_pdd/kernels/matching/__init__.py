"""Difference of features under a displacement field, with its gradient."""
