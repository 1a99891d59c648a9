"""The base of detectors of other projects: a model on a device, its precision, and the part of a scan to search."""

from typing import Any, NamedTuple

import torch
from scipy import ndimage

from ..config import Config
from ..data.lungs import Lungs, search_region
from ..data.resample import Box
from ..detectors.recipe import Foreign, Laid
from .half import Precision
from .search_plan import SEARCHED
from .windows import Region

__all__ = ["ForeignDetector", "SearchBox"]


class SearchBox(NamedTuple):
    """The box of a detector's grid to search, and the mask of possible nodules in it (None: anywhere)."""

    box: Box
    region: Region | None


class ForeignDetector:
    """A detector of another project on a device.

    Args:
        checkpoint: the loaded model.
        config: `model.mixed_precision`, and the section `inference`.
        device: where to compute.
    """

    engine = "torch"

    def __init__(self, checkpoint: Foreign, config: Config, device: torch.device) -> None:
        self.checkpoint, self.device, self.options = checkpoint, device, config.inference
        self.model: Any = checkpoint.model.to(device).to(memory_format=torch.channels_last_3d)
        self.chosen = Precision(device, mixed=config.model.mixed_precision)

    @property
    def precision(self) -> str:
        """The number format that the device computes in."""
        return self.chosen.name

    def search_box(self, laid: Laid, lungs: Lungs, margin: int) -> SearchBox:
        """The box with the lungs and `margin` voxels around them, or the whole scan."""
        shape = laid.shape
        everywhere = self.options.region == "everything"
        region = None if everywhere else search_region(lungs, shape, laid.affine, SEARCHED)
        if region is None:
            return SearchBox((slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])), None)
        inside = ndimage.find_objects(region, max_label=1)[0]
        x, y, z = (
            slice(max(0, side.start - margin), min(size, side.stop + margin))
            for side, size in zip(inside, shape, strict=True)
        )
        return SearchBox((x, y, z), region[x, y, z])
