"""PIVOT: lung nodules on chest CT, from scan to findings. Research software, not a medical device."""
