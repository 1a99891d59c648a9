"""Fitting the triage score and its calibration to readers' ratings."""
