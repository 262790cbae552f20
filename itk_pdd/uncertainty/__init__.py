"""Uncertainty of a registration: calibrated covariances, samples, hypotheses, and one figure of quality.

It listens to a search that does not depend on it. May import errors, kernels, geometry, io and network.
"""

__all__ = ["IMAGES", "LABEL_IMAGES"]

LABEL_IMAGES = ("label_probabilities", "label_entropy")
"""Images of what an uncertain deformation makes of labels, by the names of the options that ask for them."""
IMAGES = ("uncertainty", "covariance", "entropy", *LABEL_IMAGES)
"""All images of the uncertainty, by the names of the options that ask for them."""
