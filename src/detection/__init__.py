"""From a scan to its nodules: where the network looks, what it marks, and how marks become findings."""
