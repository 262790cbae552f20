"""Removal of folds from a displacement field."""
