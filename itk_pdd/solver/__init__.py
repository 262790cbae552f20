"""The registration algorithm: settings, working images, dense search, descent, unfolding, memory, devices.

May import errors, kernels, geometry, io, network and uncertainty.
"""
