"""The base of detectors of other projects: a model on a device, its precision, and the part of a scan to search."""

from typing import Any, NamedTuple

import torch
from scipy import ndimage

from ..config import Config
from ..data.lungs import Lungs, search_region
from ..data.resample import Box
from ..detectors.recipe import Foreign, Laid
from ..types import Shape3
from .half import Precision
from .search_plan import SEARCHED
from .windows import Region, regular_windows

__all__ = ["ForeignDetector", "SearchBox"]


class SearchBox(NamedTuple):
    """The part of a detector's grid to search. `windows` and `region` count from the box's first voxel."""

    box: Box
    region: Region | None  # where nodules may be; None: anywhere
    windows: list[Box]  # those of the whole scan that show a part of the region


class ForeignDetector:
    """A detector of another project on a device.

    Args:
        checkpoint: the loaded model.
        config: `model.mixed_precision`, and the section `inference`.
        device: where to compute.
    """

    engine = "torch"
    divisible: Shape3 = (1, 1, 1)  # a scan is padded at its end to a multiple of these voxels

    def __init__(self, checkpoint: Foreign, config: Config, device: torch.device) -> None:
        self.checkpoint, self.device, self.options = checkpoint, device, config.inference
        self.model: Any = checkpoint.model.to(device).to(memory_format=torch.channels_last_3d)
        self.chosen = Precision(device, mixed=config.model.mixed_precision)

    @property
    def precision(self) -> str:
        """The number format that the device computes in."""
        return self.chosen.name

    def windows(self, shape: Shape3) -> list[Box]:
        """The windows that the detector's own library lays on a scan, in voxels of the padded scan."""
        own = self.checkpoint.windows
        x, y, z = (
            max(-(-size // step) * step, side)
            for size, step, side in zip(shape, self.divisible, own.patch_size, strict=True)
        )
        return regular_windows((x, y, z), own.patch_size, own.overlap, spread=own.like == "nnU-Net")

    def search_box(self, laid: Laid, lungs: Lungs) -> SearchBox:
        """The box of the windows that show a part of the lungs' region, or the whole scan.

        The windows are those of the whole scan, so that the region gets the same probabilities as without a region.
        """
        shape, patch = laid.shape, self.checkpoint.windows.patch_size
        region = None if self.options.region == "everything" else search_region(lungs, shape, laid.affine, SEARCHED)
        windows = self.windows(shape)
        starts = [{window[axis].start for window in windows} for axis in range(3)]
        spans = [(0, max(own) + side) for own, side in zip(starts, patch, strict=True)]
        if region is not None:
            inside = ndimage.find_objects(region, max_label=1)[0]
            spans = [_span(*along) for along in zip(starts, patch, inside, self.divisible, strict=True)]
        (a, i), (b, j), (c, k) = spans
        box = (slice(a, min(i, shape[0])), slice(b, min(j, shape[1])), slice(c, min(k, shape[2])))
        moved = [
            (slice(x.start - a, x.stop - a), slice(y.start - b, y.stop - b), slice(z.start - c, z.stop - c))
            for x, y, z in windows
            if all(low <= side.start and side.stop <= high for side, (low, high) in zip((x, y, z), spans, strict=True))
        ]
        return SearchBox(box, None if region is None else region[box], moved)


def _span(starts: set[int], side: int, inside: slice, step: int) -> tuple[int, int]:
    """Along one axis, the first and last + 1 voxel of the windows that show a part of `inside`.

    Both are multiples of `step`, so that a box of these voxels is padded and windowed like the whole scan.
    """
    shown = [start for start in starts if start < inside.stop and inside.start < start + side]
    low = max(start for start in starts if start <= min(shown) and start % step == 0)
    high = min((start for start in starts if start >= max(shown) and (start + side) % step == 0), default=max(starts))
    return low, high + side
