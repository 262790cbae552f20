"""How far a registration can be believed: calibrated uncertainty, samples, hypotheses, and one figure of quality.

Listens to a search and does not know it. May import errors, kernels, geometry, io and network.
"""

__all__ = ["IMAGES", "LABEL_IMAGES"]

LABEL_IMAGES = ("label_probabilities", "label_entropy")
"""Images of what an uncertain deformation makes of labels, by the names of the options that ask for them."""
IMAGES = ("uncertainty", "covariance", "entropy", *LABEL_IMAGES)
"""All images of the uncertainty, by the names of the options that ask for them."""
