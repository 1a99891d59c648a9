"""Reading scans and bringing them onto the grid that a model expects."""
