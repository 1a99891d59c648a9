"""The DICOM node and DICOMweb: what talks to a hospital's archive."""
