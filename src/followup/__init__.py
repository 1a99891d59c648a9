"""Compares two examinations of one patient: matches nodules, measures growth, and finds new nodules."""
