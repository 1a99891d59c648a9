"""Whether values are Hounsfield units of a chest CT, judged by where its tissues must lie; else, what they look like.

The limits leave room beside what real scans hold (`docs/inputs.md`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadScan

__all__ = ["AIR", "check_hounsfield"]

AIR = -1024  # HU; what is lower is padding outside the field of view
NOISE = -1250  # HU; below lies no noise of air, only padding, which has one value or two
LUNG = (-980, -600)
LUNG_TO_FAT = (-950, -20)
TISSUE = -500  # HU; what is denser is no lung
SOFT = (-200, 200)  # fat, water, muscle
DENSE = 500  # HU; only bone, contrast medium and metal
LEAST_LUNG, LEAST_LUNG_TO_FAT, LEAST_SOFT = (
    0.005,
    0.05,
    0.01,
)  # of the voxels without padding; whole bodies have most air
MEDIAN = (-350, 200)  # HU of what is denser than lung
NEARLY_ALL = (
    0.9  # of the voxels that are lung: a piece of it, with vessels, whose tissue need be neither soft nor dense
)
MOST_DENSE = 0.4  # of it
MOST_PADDING, MOST_BELOW = 0.5, 0.02  # of all voxels
SAMPLE = 2**19  # voxels that are looked at

Values = npt.NDArray[np.float64]


def check_hounsfield(array: npt.NDArray[Any]) -> None:
    """Refuse values that are not HU of a chest CT.

    Raises:
        BadScan: the message tells what was found instead.
    """
    values = _sample(array)
    fault = _fault(values)
    if fault:
        low, high = f"{array.min():g}", f"{array.max():g}"
        msg = f"holds values from {low} to {high}, which are not Hounsfield units of a chest CT: {_looks(array, fault)}"
        raise BadScan(msg)


def _sample(array: npt.NDArray[Any]) -> Values:
    """Every n-th voxel along each axis."""
    step = max(1, round((array.size / SAMPLE) ** (1 / 3)))
    return array[::step, ::step, ::step].ravel(order="K").astype(np.float64)


def _fault(values: Values) -> str:
    """What speaks against HU of a chest CT; nothing where they are plausible."""
    padding = values[values < AIR]
    below = np.unique(padding[padding < NOISE], return_counts=True)[1]
    spread = int(below.sum() - np.sort(below)[-2:].sum())
    if spread > MOST_BELOW * values.size:
        return f"{spread / values.size:.0%} of the voxels lie below {NOISE} HU, with many values"
    if padding.size > MOST_PADDING * values.size:
        return f"{padding.size / values.size:.0%} of the voxels are padding below {AIR} HU"
    body = values[values >= AIR]
    tissue = body[body > TISSUE]
    piece = _share(body, LUNG) >= NEARLY_ALL
    for limits, least in ((LUNG, LEAST_LUNG), (LUNG_TO_FAT, LEAST_LUNG_TO_FAT), (SOFT, LEAST_SOFT)):
        share = _share(body, limits)
        if share < least and not (piece and limits == SOFT):
            return f"only {share:.1%} of the voxels lie from {limits[0]} to {limits[1]} HU"
    if not tissue.size:
        return f"no voxel is denser than {TISSUE} HU"
    median, dense = float(np.median(tissue)), float(np.mean(tissue > DENSE))
    if not (MEDIAN[0] <= median or piece) or median > MEDIAN[1]:
        return f"half of what is no lung lies {'above' if median > 0 else 'below'} {median:.0f} HU"
    return f"{dense:.0%} of what is no lung is denser than {DENSE} HU" if dense > MOST_DENSE else ""


def _share(values: Values, limits: tuple[int, int]) -> float:
    return float(np.mean((values >= limits[0]) & (values <= limits[1])))


def _looks(array: npt.NDArray[Any], fault: str) -> str:
    """What the values look like, and what to do."""
    values = _sample(array)
    above = values[values > AIR + 50]  # without a border of air or padding
    if not above.size:
        return f"nearly all of them lie below {AIR + 50} HU, so there is nothing but air: give a scan of a chest"
    low, high = above.min(), above.max()
    if low >= -10 and high <= 10:
        return "they look normalised, so undo the normalisation or give the original scan"
    if low >= 0 and high <= 255:
        return "they look like 8-bit grey levels, so give the original scan"
    for words, undo in _MISTAKES:
        if not _fault(undo(values)):
            return f"they look like {words}"
    return f"{fault}, so give the original scan in HU"


def _swapped(values: Values) -> Values:
    return values.astype(np.int64).astype(np.int16).byteswap().astype(np.float64)


_MISTAKES: tuple[tuple[str, Callable[[Values], Values]], ...] = (
    ("HU times 10, so divide them first", lambda values: values / 10),
    ("HU times 16, left-justified, so divide them first", lambda values: values / 16),
    ("16 x (HU + 1024), left-justified and unscaled, so rescale them first", lambda values: values / 16 - 1024),
    ("HU with the rescale intercept applied twice, HU - 1024, so apply it once", lambda values: values + 1024),
    (
        "signed values read as unsigned ones, so write them as int16",
        lambda values: np.where(values > np.iinfo(np.int16).max, values - 2**16, values),
    ),
    ("HU with swapped bytes, so write the scan again with the other byte order", _swapped),
    ("stored values with swapped bytes, so give the original scan", lambda values: _swapped(values) - 1024),
    ("HU in thousands, so multiply them by 1000", lambda values: values * 1000),
    ("HU with the sign turned round, so give the original scan", np.negative),
    (
        "stored values without the rescale intercept, HU + 1024 or 1000, so apply it first",
        lambda values: np.where(values < TISSUE, AIR, values - 1024),
    ),
)
