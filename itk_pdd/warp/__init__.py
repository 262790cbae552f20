"""Apply transforms to images, labels and points; compose and invert them.

May import errors, kernels, geometry and io.
"""
