"""The documented name of `measurement.nodule_properties`."""

from ..measurement.at_point import extract_properties

__all__ = ["extract_properties"]
