"""Detectors that others trained, read in the formats that they are published in: a module each, and a table of them."""
