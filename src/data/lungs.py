"""The lungs of a scan: where they are, how each side looks, and whether they can be judged.

PIVOT has no other model of the lungs. `lung_finder.find_lungs` finds them. The network's region, the filter of marks,
the examination's category, the descriptions of places and the comparison of two scans all use it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from ..types import Affine, FloatArray, Location, LungsReport, LungState, Shape3, SideReport
from .geometry import map_points, spacing_of

__all__ = ["LEAST_LITRES", "Lung", "Lungs", "Mask", "check_chest", "lung_on_grid", "search_region"]

LEAST_LITRES = 0.3  # less: a block of a scan, or lungs that are not recognised
CERTAIN_LITRES = 1.0  # less: perhaps the rest of lungs that disease has filled
CHEST = ("CHEST", "LUNG", "THORA")  # in DICOM's names for a chest
# DICOM's names of body parts without lungs (PS3.16, annex L); one word may join several. The chest lies between parts
# of the first and of the second kind.
ABOVE = "HEAD|BRAIN|SKULL|FACE|ORBITS?|SINUS(ES)?|JAW|MANDIBLE|MAXILLA|NECK|CSPINE|CAROTID|LARYNX|PHARYNX"
BELOW = (
    "ABDOMEN|ABD|LIVER|KIDNEYS?|PANCREAS|SPLEEN|COLON|BLADDER|PROSTATE|UTERUS|PELVIS|LSPINE|LSSPINE|SSPINE|SACRUM|COCCYX"
    "|HIPS?|LEGS?|THIGHS?|FEMUR|KNEES?|CALF|ANKLES?|FOOT|FEET|TOES?|ARMS?|ELBOWS?|WRISTS?|HANDS?|FINGERS?|EXTREMITY"
)
BESIDE = "UPPER|LOWER|FORE|LEFT|RIGHT|BOTH|AND|WITH|CT|L|R"
ELSEWHERE = re.compile(f"({ABOVE}|{BELOW}|{BESIDE})+")
MIDLINE = 10.0  # mm to either side of the midline within which a place is neither left nor right
Mask = npt.NDArray[np.bool_]
WORDS: dict[LungState, str] = {
    "cut": "the field of view cuts the {} lung",
    "partly aerated": "the {} lung is only partly aerated",
    "not aerated": "the {} lung is not aerated",
}


class Lung(NamedTuple):
    """One side of the chest."""

    litres: float  # aerated
    state: LungState


@dataclass(frozen=True, eq=False)
class Lungs:
    """The lungs on a coarse grid (X, Y, Z) that runs left, back, head; `affine` (RAS+) gives its position.

    `lung` is thick, aerated lung. `around` is the distance in mm to the lungs' convex hull in each slice, which
    includes hila and masses that indent a lung. `midline` is the lowest and the highest estimate of the body's middle
    along x, `height` the lowest and the highest level of the lungs, in voxels of the grid; each is None if uncertain.
    `right` and `left` are None without a midline. `doubtful`: lung may exist where none is seen, because a side is
    filled or the midline is uncertain. `drawn`: the scan is a digital phantom.
    """

    lung: Mask
    around: FloatArray
    affine: Affine
    midline: tuple[float, float] | None
    height: tuple[int, int] | None
    right: Lung | None
    left: Lung | None
    doubtful: bool
    drawn: bool = False

    @cached_property
    def litres(self) -> float:
        """Litres of thick, aerated lung."""
        return round(float(self.lung.sum() * np.prod(spacing_of(self.affine)) / 1e6), 2)

    @property
    def recognised(self) -> bool:
        """Whether the scan shows lungs at all, and is not a block of a scan, an abdomen or a head."""
        return self.litres >= LEAST_LITRES

    @property
    def certain(self) -> bool:
        """Whether all lung is recognised. If not, the whole scan is searched and no mark is dropped."""
        return self.litres >= CERTAIN_LITRES and not self.doubtful

    @cached_property
    def reason(self) -> str | None:
        """Why the lungs cannot be judged as a whole; None if they can."""
        if not self.recognised:
            return f"no lungs are recognised: {self.litres:.1f} litres of aerated lung, less than {LEAST_LITRES:g}"
        if self.drawn:
            return "lung and tissue have no noise, as in a digital phantom: the model was trained on scans with noise"
        if self.right is None or self.left is None:
            return "the middle of the body is not found: the scan may not show both lungs"
        faults = "; ".join(self._faults())
        if not faults and not self.certain:
            return f"only {self.litres:.1f} litres of aerated lung, less than {CERTAIN_LITRES:g}"
        return faults or None

    def _faults(self) -> Iterator[str]:
        for side, lung in (("right", self.right), ("left", self.left)):
            if lung and lung.state in WORDS:
                yield WORDS[lung.state].format(side)

    def report(self) -> LungsReport:
        """The report's statements about the lungs."""
        right, left = (
            None if lung is None else SideReport(litres=lung.litres, state=lung.state)
            for lung in (self.right, self.left)
        )
        return LungsReport(
            recognised=self.recognised,
            evaluable=self.reason is None,
            reason=self.reason,
            right=right,
            left=left,
        )

    def distance_to(self, world: npt.NDArray[np.float64]) -> float:
        """The distance in mm from a world point (RAS+) to the nearest aerated lung, to about 3 mm."""
        index = map_points(np.linalg.inv(self.affine), world)
        offsets = (self._voxels - index) * spacing_of(self.affine)
        return float(np.linalg.norm(offsets, axis=1).min(initial=np.inf))

    @cached_property
    def _voxels(self) -> npt.NDArray[np.intp]:
        return np.argwhere(self.lung)

    def locate(self, world: npt.NDArray[np.float64]) -> Location:
        """Side and third of a world point (RAS+)."""
        x, _, z = map_points(np.linalg.inv(self.affine), world)
        return Location(side=self._side(x), third=self._third(z))

    def _side(self, x: float) -> Literal["left", "right", "midline"] | None:
        if self.midline is None:
            return None
        low, high = self.midline
        margin = MIDLINE / spacing_of(self.affine)[0]
        return "right" if x < low - margin else "left" if x > high + margin else "midline"

    def _third(self, z: float) -> Literal["upper", "middle", "lower"] | None:
        if self.height is None:
            return None
        low, high = self.height
        share = (z - low) / max(1, high - low)
        return "lower" if share < 1 / 3 else "middle" if share < 2 / 3 else "upper"


def check_chest(body_part: str, lungs: Lungs) -> None:
    """Refuse a scan without lungs whose BodyPartExamined (DICOM) names another part of the body.

    Raises:
        BadScan: the scan is no chest.
    """
    if not lungs.recognised and _is_elsewhere(body_part.upper()):
        msg = f"{lungs.reason}, and BodyPartExamined is {body_part[:16]}: give a CT of the chest"
        raise BadScan(msg)


def _is_elsewhere(body_part: str) -> bool:
    """Whether each word names a body part without lungs, or qualifies one."""
    words = re.findall(r"[^\W\d_]+", body_part)
    if not all(ELSEWHERE.fullmatch(word) for word in words):
        return False
    return bool(re.search(ABOVE, body_part)) != bool(re.search(BELOW, body_part))


def search_region(lungs: Lungs, shape: Shape3, affine: Affine, reach: float) -> Mask | None:
    """The voxels of a grid of `shape` and `affine` (RAS+) that may hold nodules: up to `reach` mm from the lungs' hull.

    The grid's axes are parallel to those of the lungs. None means anywhere: the extent of the lungs is uncertain.
    """
    if not lungs.certain:
        return None
    region: Mask = (lungs.around <= reach)[_nearest(lungs, shape, affine)]
    return region


def lung_on_grid(lungs: Lungs, shape: Shape3, affine: Affine) -> Mask:
    """Thick, aerated lung on a grid of `shape` and `affine` (RAS+), with axes parallel to those of the lungs."""
    lung: Mask = lungs.lung[_nearest(lungs, shape, affine)]
    return lung


def _nearest(lungs: Lungs, shape: Shape3, affine: Affine) -> tuple[npt.NDArray[np.intp], ...]:
    """The nearest voxels of the lungs' grid for each voxel of another grid, as an index for NumPy."""
    index = np.linalg.inv(lungs.affine) @ affine
    return np.ix_(
        *(
            np.clip(np.rint(index[axis, axis] * np.arange(size) + index[axis, 3]), 0, count - 1).astype(int)
            for axis, (size, count) in enumerate(zip(shape, lungs.lung.shape, strict=True))
        )
    )
