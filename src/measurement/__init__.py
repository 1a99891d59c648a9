"""Segmentation and measurement of one nodule."""
