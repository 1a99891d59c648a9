"""Training of the default network."""
