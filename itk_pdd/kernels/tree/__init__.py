"""Exact min-sum regularisation of displacement costs on a spanning tree."""
