"""Reads scans and prepares them for a network."""
