"""Draws pictures of scans and findings, and writes reports."""
