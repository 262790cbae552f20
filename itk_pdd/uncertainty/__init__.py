"""How far a registration can be believed: calibrated uncertainty, samples, hypotheses, and one figure of quality."""
