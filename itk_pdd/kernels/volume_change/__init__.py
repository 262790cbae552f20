"""Penalty on changes of volume, with its gradient."""
