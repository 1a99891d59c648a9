"""Pictures of scans and findings."""
