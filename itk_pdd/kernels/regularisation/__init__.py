"""Min-convolution over displacements and mean field over control points."""
