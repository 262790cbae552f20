"""The networks: that of the paper (features, costs, regularisation, distribution), organs, descriptors; their cards.

Read it in this order: ``obelisk``, ``costs``, ``regularisation``, ``distribution``, ``pdd``, ``pddnet``. May import
errors, kernels, geometry and io.
"""
