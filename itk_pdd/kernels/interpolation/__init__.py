"""Linear and nearest-neighbour interpolation."""
