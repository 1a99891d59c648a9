"""PIVOT: lung nodules on chest CT, from scan to findings. Research software, not a medical device."""

__version__ = "0.1.0"
