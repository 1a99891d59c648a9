"""Two examinations of one patient: where nodules went, how they grew, which are new."""
