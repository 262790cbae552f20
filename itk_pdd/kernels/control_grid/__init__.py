"""Displacements on a control grid and on the voxels: up-sampling, restriction, composition."""
