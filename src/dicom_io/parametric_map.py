"""The heatmap as a DICOM Parametric Map."""

import numpy as np
from highdicom.content import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping

from .codes import ACTIVATION, NO_UNITS
from .context import Context

__all__ = ["export"]

VISIBLE = 1 / 255  # lower values are 0 in the NIfTI heatmap too


def export(context: Context) -> ParametricMap:
    """The heatmap, float32 in 0..1, from the first to the last slice with a visible value, else the middle one."""
    heatmap = np.asarray(context.results["heatmap"], dtype=np.float32)
    visible = np.flatnonzero(heatmap.max(axis=(0, 1)) >= VISIBLE)
    first, last = (visible[0], visible[-1]) if visible.size else (heatmap.shape[2] // 2,) * 2
    return context.finished(
        ParametricMap(
            source_images=context.images[first : last + 1],
            pixel_array=np.ascontiguousarray(heatmap[..., first : last + 1].T),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                RealWorldValueMapping(
                    lut_label="CONFIDENCE",
                    lut_explanation="Confidence of the detector, 0 to 1",
                    unit=NO_UNITS,
                    value_range=(0.0, 1.0),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=ACTIVATION,
                )
            ],
            voi_lut_transformations=[VOILUTTransformation(window_center=0.5, window_width=1.0)],
            content_label="HEATMAP",
            content_description="Detector confidence, lung nodules",
            **context.common("PM"),
        )
    )
