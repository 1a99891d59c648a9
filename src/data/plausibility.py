"""Tells whether values are Hounsfield units of a chest CT, by where its tissues must lie; if not, what they look like.

The limits leave a margin around the values of real scans (`docs/inputs.md`). Digital phantoms without noise are
recognised.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadScan

__all__ = ["AIR", "check_hounsfield", "is_drawn"]

AIR = -1024  # HU; lower values are padding outside the field of view
NOISE = -1250  # HU; no noise of air is lower, only padding, with one value or two
LUNG = (-980, -600)
LUNG_TO_FAT = (-950, -20)
TISSUE = -500  # HU; lung is less dense
SOFT = (-200, 200)  # fat, water, muscle
DENSE = 500  # HU; only bone, contrast medium and metal are denser
# Fractions of the voxels without padding. In a whole-body scan most voxels are air.
LEAST_LUNG, LEAST_LUNG_TO_FAT, LEAST_SOFT = 0.005, 0.05, 0.01
MEDIAN, WHOLE_MEDIAN = (-350, 200), (-150, 200)  # HU, median of tissue
NEARLY_ALL = 0.9  # fraction of lung; a piece with more has vessels, which need not be soft nor dense
MOST_DENSE = 0.4  # fraction of tissue
MOST_PADDING, MOST_BELOW = 0.5, 0.02  # fractions of all voxels
THIN, PIECE_THIN, LEAST_THIN = -930, -780, 0.0005  # HU; at least this fraction lies below: air, or noise in lung
THINNEST = (-1045, 0.02)  # HU of the peak below -900 if that fraction lies near it: air
NEAR = 10  # HU
LOW = (-1000, -130)  # HU: thinnest lung and median of tissue; if both are lower, values are shifted
HIGH = 145  # HU; if the median of tissue is higher, there must be air
MEANS, MODES = 4, 350  # voxels along an axis; HU
WATER_TO_MUSCLE = (0, 70)  # HU
LOWEST_FAT, BETWEEN = -150, (-70, -10)  # HU: limits of the most frequent tissue, and a range where it cannot lie
MOST_ALIKE, WHOLE_ALIKE = (
    0.2,
    0.12,
)  # fraction of voxels with one value above FILLED, in a piece and in a whole chest
FILLED = -900  # HU; many voxels below may share a value: air, or a border
FEWEST, HIGHEST = 40, 65535  # distinct values above FILLED; HU
# Fraction of neighbours in lung, and in tissue, that are equal in a phantom: drawn sharply, and blurred. Real scans
# reach 0.28, in steps of 32 HU 0.6, in steps of 128 HU 0.84.
DRAWN, BLURRED = 0.95, 0.65
DRAWN_AIR = -980  # HU; a phantom's air is below
ROUGH = 0.5  # of the variance of all voxels: limit for neighbours
FLAT = 200.0  # HU; least standard deviation for that test
BLOCK, STEP = 64, 4  # voxels along an axis
BODY = 0.1  # least fraction of tissue in a slice of the body
OFFSETS = (50, -50, 100, -100, 150, -150, 200, -200)  # HU, candidates
SAMPLE = 2**19  # voxels to examine

AXES = ("first", "second", "third")

Values = npt.NDArray[np.float64]


def check_hounsfield(array: npt.NDArray[Any], *, whole: bool = False) -> None:
    """Refuse values that are not HU of a chest CT. A `whole` chest is checked more strictly than a piece.

    Raises:
        BadScan: the message says what the values look like.
    """
    values, drawn = _sample(array), is_drawn(array)
    fault = _fault(values, whole=whole, drawn=drawn)
    if fault:
        words = _looks(array, fault, whole=whole)
    else:
        words = (_no_fat_or_muscle(array) if whole else "") or _no_image(array, values, whole=whole, drawn=drawn)
    if words:
        low, high = f"{array.min():g}", f"{array.max():g}"
        msg = f"holds values from {low} to {high}, which are not Hounsfield units of a chest CT: {words}"
        raise BadScan(msg)


def is_drawn(array: npt.NDArray[Any]) -> bool:
    """Whether lung and tissue are even, as in a digital phantom without noise; no nodule can be excluded there."""
    step = max(1, round((array.size / SAMPLE) ** 0.5))
    lines = array[:, ::step, ::step]
    here, there = lines[:-1], lines[1:]
    alike = 1.0
    for low, high in (LUNG, (TISSUE, HIGHEST)):
        both = (here > low) & (here < high) & (there > low) & (there < high)
        alike = min(alike, float((here == there)[both].mean()) if both.any() else 0.0)
    return alike >= DRAWN or (alike >= BLURRED and len(np.unique(here[here > FILLED])) >= FEWEST)


def _sample(array: npt.NDArray[Any]) -> Values:
    """Each n-th voxel along each axis."""
    step = max(1, round((array.size / SAMPLE) ** (1 / 3)))
    return array[::step, ::step, ::step].ravel(order="K").astype(np.float64)


def _fault(values: Values, *, whole: bool, drawn: bool = False) -> str:
    """The first contradiction to HU of a chest CT; empty if the values are plausible."""
    return _padded(values) or _without_tissue(values, whole=whole) or _moved(values, whole=whole, drawn=drawn)


def _padded(values: Values) -> str:
    padding = values[values < AIR]
    below = np.unique(padding[padding < NOISE], return_counts=True)[1]
    spread = int(below.sum() - np.sort(below)[-2:].sum())
    if spread > MOST_BELOW * values.size:
        return f"{spread / values.size:.0%} of the voxels lie below {NOISE} HU, with many values"
    if padding.size > MOST_PADDING * values.size:
        return f"{padding.size / values.size:.0%} of the voxels are padding below {AIR} HU"
    return ""


def _without_tissue(values: Values, *, whole: bool) -> str:
    """The first contradiction to plausible shares of lung, fat and soft tissue."""
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
    least_median, most_median = WHOLE_MEDIAN if whole else MEDIAN
    if not (least_median <= median or piece) or median > most_median:
        return f"half of the tissue outside the lung lies {'above' if median > 0 else 'below'} {median:.0f} HU"
    return f"{dense:.0%} of the tissue outside the lung is denser than {DENSE} HU" if dense > MOST_DENSE else ""


def _moved(values: Values, *, whole: bool, drawn: bool) -> str:
    """The first contradiction to air at -1000 HU: an offset, or a wrong slope."""
    low = values[(values >= NOISE) & (values < FILLED)]
    counts = np.bincount((low - NOISE).astype(int), minlength=FILLED - NOISE)
    near = np.convolve(counts, np.ones(2 * NEAR + 1), "same")
    air, median = NOISE + int(near.argmax()), float(np.median(values[values > TISSUE]))
    if near.max() > THINNEST[1] * values.size and (air < THINNEST[0] or (air < LOW[0] and median < LOW[1])):
        tissue = f", half of the denser tissue below {median:.0f} HU" if air >= THINNEST[0] else ""
        return f"the thinnest tissue, air or lung, lies at {air} HU{tissue}"
    limit = THIN if whole or median > HIGH else PIECE_THIN
    limit = min(limit, DRAWN_AIR) if drawn and whole else limit
    thin = values[(values >= AIR if drawn else values > AIR) & (values < limit)]
    found, counts = np.unique(thin, return_counts=True)
    least = LEAST_THIN * values.size
    if thin.size < least:
        return f"almost no voxel is as thin as air or lung, below {limit} HU"
    if thin.size - counts.max() < least and not drawn:
        return f"all voxels as thin as air or lung, below {limit} HU, have the value {found[counts.argmax()]:g}"
    return ""


def _no_fat_or_muscle(array: npt.NDArray[Any]) -> str:
    """The first contradiction to fat near -100 and muscle near 50 HU; one is the most frequent tissue in a whole chest.

    Uses means of blocks: there the noise of a low dose does not merge the two.
    """
    whole = array[tuple(slice(n // MEANS * MEANS) for n in array.shape)]
    step = max(1, round((whole.size / SAMPLE) ** (1 / 3) / 2))
    parts = whole.reshape([size for n in whole.shape for size in (n // MEANS, MEANS)])
    means = parts[::step, :, ::step, :, ::step].mean(axis=(1, 3, 5))
    tissue = means[np.abs(means) < MODES]
    near = np.convolve(np.bincount((tissue + MODES).astype(int), minlength=2 * MODES), np.ones(2 * NEAR + 1), "same")
    mode = int(np.flatnonzero(near == near.max()).mean()) - MODES
    if not tissue.size or (mode >= LOWEST_FAT and not BETWEEN[0] < mode < BETWEEN[1]):
        return ""
    return f"most tissue lies at {mode} HU, not at -100 (fat) or 50 (muscle), so correct the rescale intercept"


def _share(values: Values, limits: tuple[int, int]) -> float:
    return float(np.mean((values >= limits[0]) & (values <= limits[1])))


def _no_image(array: npt.NDArray[Any], values: Values, *, whole: bool, drawn: bool) -> str:
    """The first contradiction to an image of a body, if the range of the values is possible, with the remedy."""
    found, counts = np.unique(values[values > FILLED], return_counts=True)
    alike, highest = float(counts.max(initial=0) / values.size), float(array.max())
    if highest > HIGHEST:
        return f"no CT reaches {highest:g} HU, so give the original scan"
    if len(found) < FEWEST and not drawn:
        few = f"only {len(found)} values above {FILLED} HU occur"
        return f"{few}, so give the original scan; a phantom needs noise of 5 HU, or none"
    if alike > (WHOLE_ALIKE if whole else MOST_ALIKE) and not drawn:
        what = f"{alike:.0%} of the voxels have the value {found[counts.argmax()]:g}, as a mask or clipped data has"
        return f"{what}, so give the original scan; a phantom needs noise everywhere, or nowhere"
    return _without_slices(array) or _rough(array)


def _without_slices(array: npt.NDArray[Any]) -> str:
    for name, planes in _planes(array, STEP):
        blank = planes.min(axis=1) == planes.max(axis=1)
        if blank.mean() > MOST_PADDING:
            return f"{blank.mean():.0%} of the slices along the {name} axis are empty, so give the original scan"
        if where := _gaps(blank, planes):
            return f"slices {where} along the {name} axis are empty, so give a scan without gaps"
    return ""


def _rough(array: npt.NDArray[Any]) -> str:
    """Whether neighbours in the middle of the volume differ as much as arbitrary voxels."""
    middle = array[tuple(slice(max(0, (n - BLOCK) // 2), (n + BLOCK) // 2) for n in array.shape)]
    middle = np.clip(middle, AIR, -AIR).astype(np.float64)
    if middle.std() < FLAT:
        return ""
    for axis, name in enumerate(AXES):
        if np.square(np.diff(middle, axis=axis)).mean() > ROUGH * 2 * middle.var():
            what = f"neighbours along the {name} axis differ like arbitrary voxels: they are noise, or the sizes of the"
            return f"{what} axes are wrong, so give the original scan"
    return ""


def _planes(array: npt.NDArray[Any], step: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """For each axis: its name, and every n-th pixel of each slice across it, (slices, pixels)."""
    for axis, name in enumerate(AXES):
        part = array[tuple(slice(None, None, 1 if other == axis else step) for other in range(3))]
        yield name, np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1)


def _gaps(blank: npt.NDArray[np.bool_], planes: npt.NDArray[Any]) -> str:
    """The indices of blank slices (one value throughout) between slices that show the body."""
    seen = np.flatnonzero(~blank)
    body = (planes > TISSUE).mean(axis=1) >= BODY
    odd = [
        place
        for place in np.flatnonzero(blank)
        if (after := int(np.searchsorted(seen, place))) not in (0, len(seen)) and body[seen[[after - 1, after]]].all()
    ]
    return ", ".join(str(place + 1) for place in odd[:5]) + ", ..." * (len(odd) > 5)


def _looks(array: npt.NDArray[Any], fault: str, *, whole: bool) -> str:
    """What the values look like, and the remedy."""
    values = _sample(array)
    above = values[values > AIR + 50]  # without a border of air or padding
    if not above.size:
        return f"nearly all of them lie below {AIR + 50} HU, so there is nothing but air: give a scan of a chest"
    if _only_lung_is_missing(values):
        return f"{fault}, though air and soft tissue have their HU, so the scan shows no lung: give a scan of a chest"
    for low, high, words in _GREY_LEVELS:
        if low <= above.min() and above.max() <= high:
            return f"they look {words} or give the original scan"
    for words, undo in _MISTAKES:
        if not _fault(undo(values), whole=whole):
            return f"they look like {words}"
    for offset in OFFSETS if _share(values, SOFT) >= LEAST_SOFT else ():
        if not _fault(values - offset, whole=whole):
            return f"{fault}, as in HU {'+' if offset > 0 else '-'} {abs(offset)}, so correct the rescale intercept"
    return f"{fault}, so give the original scan in HU"


def _only_lung_is_missing(values: Values) -> bool:
    """Whether these are HU of another body part: air and soft tissue at their places, and no lung."""
    thin, soft = (values[(values >= low) & (values <= high)] for low, high in ((NOISE, FILLED), SOFT))
    if min(thin.size, soft.size) < THINNEST[1] * values.size or _share(values, LUNG_TO_FAT) >= LEAST_LUNG_TO_FAT:
        return False
    air, tissue = float(np.median(thin)), float(np.median(soft))
    return abs(air + 1000) <= NEAR and WATER_TO_MUSCLE[0] <= tissue <= WATER_TO_MUSCLE[1]


def _swapped(values: Values) -> Values:
    whole = values.clip(-(2**31), 2**31).astype(np.int64)
    return whole.astype(np.int16).byteswap().astype(np.float64)


def _turned(values: Values) -> Values:
    """The values with the other sign; all air unless both signs occur."""
    return -values if values.min() < TISSUE and values.max() > -TISSUE else np.full_like(values, AIR)


_GREY_LEVELS = (
    (-10, 10, "normalised, so undo the normalisation"),
    (0, 255, "like 8-bit grey levels, so undo the window"),
)
_MISTAKES: tuple[tuple[str, Callable[[Values], Values]], ...] = (
    *(
        (f"HU times {factor}{why}, so divide them first", lambda values, factor=factor: values / factor)
        for factor, why in ((10, ""), *((factor, ", left-justified") for factor in (2, 4, 8, 16)))
    ),
    *(
        (
            f"{factor} x (HU + 1024), left-justified and unscaled, so rescale them first",
            lambda values, factor=factor: values / factor - 1024,
        )
        for factor in (2, 4, 8, 16)
    ),
    ("HU with the rescale intercept applied twice, HU - 1024, so apply it once", lambda values: values + 1024),
    (
        "signed values read as unsigned ones, so write them as int16",
        lambda values: np.where(values > np.iinfo(np.int16).max, values - 2**16, values),
    ),
    ("HU with swapped bytes, so write the scan again with the other byte order", _swapped),
    ("stored values with swapped bytes, so give the original scan", lambda values: _swapped(values) - 1024),
    ("HU in thousands, so multiply them by 1000", lambda values: values * 1000),
    ("HU with the sign reversed, so give the original scan", _turned),
    (
        "stored values without the rescale intercept, HU + 1024 or 1000, so apply it first",
        lambda values: np.where(values < TISSUE, AIR, values - 1024),
    ),
)
