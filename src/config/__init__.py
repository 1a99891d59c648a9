"""The configuration in YAML. Each section is a frozen model that refuses unknown keys."""

from .schema import (
    AUGMENTATIONS,
    Augmentation,
    Config,
    DetectionsFormat,
    Device,
    Formats,
    HeatmapFormat,
    InferenceSection,
    Output,
    PeakDetection,
    PostProcessing,
    Visualization,
    load_config,
)
from .section import Section, explain, load_section

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Config",
    "DetectionsFormat",
    "Device",
    "Formats",
    "HeatmapFormat",
    "InferenceSection",
    "Output",
    "PeakDetection",
    "PostProcessing",
    "Section",
    "Visualization",
    "explain",
    "load_config",
    "load_section",
]
