"""Derivatives of an image by the Sobel operator."""
