"""What a transform is applied to: images, labels, points; composition and inversion of transforms.

May import errors, kernels, geometry and io.
"""
