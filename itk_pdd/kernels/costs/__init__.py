"""Displacement costs: mean squared differences of features, the paper's dense correlation layer."""
