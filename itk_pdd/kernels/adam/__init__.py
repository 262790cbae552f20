"""A step of Adam on the control points of a field, with the gradients of its smoothness."""
