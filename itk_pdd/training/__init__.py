"""Learning from labelled scans: data sets, augmentation, losses, the training loop and its checkpoints.

May import everything below: models, solver, evaluation, network, synthesis and what those may import.
"""
