"""The report of a scan: its reading and writing."""
