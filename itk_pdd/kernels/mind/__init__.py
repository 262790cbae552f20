"""MIND-SSC features and their binary codes."""
