"""Reads and writes the report of a scan."""
