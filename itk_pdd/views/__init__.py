"""Slices of volumes drawn as pictures: overviews, overlays and the slices of reports. May import geometry and io."""
