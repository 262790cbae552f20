"""Mean, covariance, entropy and log-partition of the displacement under a softmax of costs."""
