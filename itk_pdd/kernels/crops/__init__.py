"""Augmented crops of labelled scans, and the shares of classes in blocks of voxels (CPU); the definitions are in
:mod:`itk_pdd.training.augmentation`."""
