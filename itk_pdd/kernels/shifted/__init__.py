"""Differences of a map on pairs of shifted grids: the samples of the Obelisk network."""
