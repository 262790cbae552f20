"""Measure registrations: metrics, data sets, baselines, comparison of methods. May import all rooms up to views."""
