"""Images, transforms, fields and points from ITK, SimpleITK and files, and back to them.

The only room that knows these libraries and file formats. May import errors, kernels and geometry.
"""
