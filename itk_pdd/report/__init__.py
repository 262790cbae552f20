"""Reports for a browser: one HTML file for a comparison or a registration. May import all rooms up to uncertainty."""
