"""Trains the default network."""
