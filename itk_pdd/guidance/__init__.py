"""Labels, landmarks and features that a user knows of two images: they guide a registration.

May import the networks and all below them.
"""
