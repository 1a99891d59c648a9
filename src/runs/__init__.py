"""Processes many scans (batches, reading ahead, shards, Ray), and writes the files of each scan."""
