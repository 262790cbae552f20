"""Values of a map expected at displaced control points."""
