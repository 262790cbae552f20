"""Measuring registrations: metrics, data sets, baselines and the comparison of methods."""
