"""From a scan to nodules: the stages, the pipeline over them, and the command line."""
