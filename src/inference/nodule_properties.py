"""The documented name of `measurement.nodule_properties`."""

from ..measurement.nodule_properties import extract_properties

__all__ = ["extract_properties"]
