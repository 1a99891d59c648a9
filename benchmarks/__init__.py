"""Measurements that take too long for a test; each module is a command: `python -m benchmarks.NAME`."""
