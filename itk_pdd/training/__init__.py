"""Learning from labelled scans: data sets, augmentation, losses, the training loop and its checkpoints."""
