"""Formats of other programs: elastix, NiftyReg, 3D Slicer, VTK. May import errors and geometry."""
