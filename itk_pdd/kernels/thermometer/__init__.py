"""Class probabilities as binary codes."""
