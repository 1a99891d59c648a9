"""Results as DICOM objects, and de-identification."""
