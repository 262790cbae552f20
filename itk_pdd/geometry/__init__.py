"""Grids, volumes and displacement fields in physical space, and the mappings between their points.

Arrays and numbers alone: nothing here knows ITK, SimpleITK or files. May import errors and kernels.
"""
