"""Checks of files before a library reads them: damaged files make some readers crash, hang or return wrong voxels.

May import errors.
"""
