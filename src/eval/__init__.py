"""Evaluates detections against a reference standard: FROC and CPM as LUNA16 defines them."""
