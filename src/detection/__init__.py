"""Finds the nodules of a scan: the region to search, the marks, and the findings."""
