"""Many scans: batches, reading ahead, shards, Ray, and the files of each scan."""
