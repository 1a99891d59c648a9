"""Changes of the table of jobs from release to release."""
