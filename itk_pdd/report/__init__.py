"""Reports to look at in a browser: one HTML file each, without network, for a comparison or for one registration."""
