"""Plans the search: the region around the lungs, and the windows that cover it."""

from typing import NamedTuple

import torch

from ..config import InferenceSection
from ..data.geometry import spacing_of
from ..data.lungs import Lungs, Mask, search_region
from ..data.resample import Box, check_size
from ..model.unet import output_grid, strides_of
from ..types import Affine, Shape3
from .windows import CONTEXT, plan_box, plan_tiles

__all__ = ["BESIDE_LUNG", "TILES", "SearchPlan", "plan_search"]

BESIDE_LUNG = 12.0  # mm from aerated lung to a nodule's edge; marks further away are bowel, skin or table
SEARCHED = BESIDE_LUNG + 3.0  # mm around the lungs, whose edge is known to about 3 mm
# Voxels that neighbouring tiles share, and voxels of context around the region (docs/performance.md).
TILES = {"balanced": (96, 16), "fast": (48, 0)}


class SearchPlan(NamedTuple):
    """The plan of the search in the resampled scan.

    `patch` and `stride` are in voxels of the resampled scan. `box` is the part that the network sees (None: all of it).
    `region` is a mask of possible nodules on the output grid of that part (None: anywhere).
    """

    patch: Shape3
    stride: Shape3
    box: Box | None = None
    region: Mask | None = None


def plan_search(
    shape: Shape3, affine: Affine, lungs: Lungs, model: torch.nn.Module, options: InferenceSection
) -> SearchPlan:
    """The plan for a resampled scan of `shape` voxels with the `affine` (RAS+).

    Raises:
        BadScan: the scan is too large for the network.
    """
    patch, stride = options.patch_size, options.step
    scale, multiple = strides_of(model)
    x, y, z = (-(-size // scale) for size in shape)
    coarse = affine @ output_grid(model).matrix
    check_size((x, y, z), spacing_of(coarse))
    region = search_region(lungs, (x, y, z), coarse, SEARCHED) if options.region == "lungs" else None
    if options.mode == "whole_volume":
        a, b, c = (-(-size // multiple) * multiple for size in shape)
        return SearchPlan((a, b, c), (a, b, c))
    context = CONTEXT
    if options.speed in TILES:
        overlap, context = TILES[options.speed]
        patch, stride = plan_tiles(region, shape, overlap, scale=scale, multiple=multiple, context=context)
    if region is None:
        return SearchPlan(patch, stride)
    box = plan_box(region, shape, patch, stride, scale=scale, multiple=multiple, context=context)
    inside = tuple(slice(side.start // scale, -(-side.stop // scale)) for side in box)
    return SearchPlan(patch, stride, box, region[inside])
