"""Displacement costs between binary codes."""
