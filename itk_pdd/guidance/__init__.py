"""What a user knows about two images: labels, landmarks, features of their own, rigid parts.

May import the networks and all below them.
"""
