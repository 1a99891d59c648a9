"""Writes results as DICOM objects, and de-identifies scans."""
