"""Applies management guidelines to measured nodules."""
