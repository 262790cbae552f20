"""File formats of other programs: elastix, NiftyReg, 3D Slicer, VTK."""
