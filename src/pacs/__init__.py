"""The DICOM node and the DICOMweb client: communication with a hospital's archive."""
