"""Groups slices into volumes: splits series that hold several, and joins series that continue one another."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .slices import Slice
from .stacks import TOLERANCE, Stack, extent, typical_step

__all__ = ["DIFFERENCES", "MIN_SLICES", "Part", "joined", "split"]

MIN_SLICES = 3  # fewer slices are a localiser
CONTINUES = (0.5, 1.5)  # of the distance between slices: the step from the end of one series to the next
TURNED = 0.01  # tolerance of direction components within one reconstruction
LIKE = 0.05  # tolerance, relative, of slice distances in series that continue one another


@dataclass(eq=False)
class Part:
    """Slices that may form a volume; then that volume, or the problem with it."""

    slices: list[Slice]
    stack: Stack | None = None
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name of the part, for messages."""
        numbers = sorted({one.about.number for one in self.slices})
        name = " and ".join(str(number) for number in numbers[:3]) if any(numbers) else "without number"
        kernel = self.slices[0].about.kernel
        return f"series {name} ({len(self.slices)} slices{f', kernel {kernel}' if kernel else ''})"

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest position along the normal, in millimetres."""
        return extent(self.slices)


def split(part: Part) -> list[Part]:
    """The separate reconstructions, acquisitions or phases under one SeriesInstanceUID."""
    for differ, everywhere in SPLITS:
        pieces = list(_grouped(part.slices, differ).values())
        if _are_volumes(pieces) and (everywhere or _overlap(pieces)):
            return [one for piece in pieces for one in split(Part(piece))]
    for pieces in (_twins(part.slices), _runs(part.slices)):
        if _are_volumes(pieces) and _overlap(pieces):
            return [Part(piece) for piece in pieces]
    return [part]


@dataclass(frozen=True, eq=False)
class _Near:
    """The numbers with those merged that differ by at most `least`, as rounding makes them."""

    values: npt.NDArray[np.float64]
    least: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Near) and bool(np.abs(self.values - other.values).max() <= self.least)

    def __hash__(self) -> int:
        return 0  # equal ones must have the same, and there are few


# The attributes that separate reconstructions, with their names for messages.
DIFFERENCES: tuple[tuple[str, Callable[[Slice], Hashable]], ...] = (
    ("FrameOfReferenceUID", lambda one: one.about.frame_of_reference),
    ("ImageType", lambda one: one.about.image_type),
    ("ConvolutionKernel", lambda one: one.about.kernel),
    ("size of images (Rows, Columns)", lambda one: one.size),
    ("ImageOrientationPatient", lambda one: _Near(np.concatenate([one.along_row, one.along_column]), TURNED)),
    ("PixelSpacing", lambda one: _Near(one.spacing, TOLERANCE / 2 / max(one.size))),
    ("SliceThickness", lambda one: one.about.thickness),
    ("AcquisitionNumber", lambda one: one.about.acquisition),
    ("KVP, ContrastBolusAgent or phase", lambda one: one.about.phase),
    ("SeriesDescription", lambda one: one.about.description),
)
SURE = 6  # these always separate parts; the others only if the parts overlap
SPLITS = tuple((differ, place < SURE) for place, (_, differ) in enumerate(DIFFERENCES))


def _grouped(slices: Iterable[Slice], differ: Callable[[Slice], Hashable]) -> dict[Hashable, list[Slice]]:
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for one in slices:
        groups[differ(one)].append(one)
    return groups


def _are_volumes(pieces: list[list[Slice]]) -> bool:
    return len(pieces) > 1 and all(len(piece) >= MIN_SLICES for piece in pieces)


def _overlap(pieces: list[list[Slice]]) -> bool:
    """Whether any two pieces share at least half the length of the shorter."""
    spans = sorted(map(extent, pieces))
    return any(
        min(a[1], b[1]) - b[0] >= min(a[1] - a[0], b[1] - b[0]) / 2 for i, a in enumerate(spans) for b in spans[i + 1 :]
    )


def _twins(slices: list[Slice]) -> list[list[Slice]]:
    """Split slices whose InstanceNumbers each occur equally often, at different places: one piece per repetition."""
    groups = [sorted(group, key=_height(slices)) for group in _grouped(slices, lambda one: one.number).values()]
    if len({len(group) for group in groups}) > 1 or not all(typical_step(group) for group in groups):
        return [slices]
    return [list(piece) for piece in zip(*groups, strict=True)]


def _runs(slices: list[Slice]) -> list[list[Slice]]:
    """Slices by InstanceNumber, split where the direction along the normal reverses."""
    if len({one.number for one in slices}) < len(slices):
        return [slices]
    height, runs, direction = _height(slices), list[list[Slice]](), 0.0
    for one in sorted(slices, key=lambda one: one.number):
        move = np.sign(height(one) - height(runs[-1][-1])) if runs else 0.0
        if not runs or (direction and move != direction):
            runs.append([one])
            direction = 0.0
        else:
            runs[-1].append(one)
            direction = move
    return runs


def _height(slices: list[Slice]) -> Callable[[Slice], float]:
    normal = slices[0].normal
    return lambda one: float(one.position @ normal)


def joined(parts: list[Part]) -> list[Part]:
    """Join parts that continue one another end to end."""
    pools: dict[Hashable, list[Part]] = defaultdict(list)
    for part in parts:
        first = part.slices[0]
        alike = tuple(differ(first) for differ, everywhere in SPLITS if everywhere)
        pools[(alike, first.about.projection)].append(part)
    return [chain for pool in pools.values() for chain in _chains(pool)]


def _chains(pool: list[Part]) -> list[Part]:
    if len(pool) == 1:
        return pool
    usual = typical_step([part.slices[0] for part in pool])
    chains = list[Part]()
    for part in sorted(pool, key=lambda part: part.span):
        chain = next((chain for chain in chains if _continues(part, chain, usual)), None)
        if chain:
            chain.slices += part.slices
        else:
            chains.append(Part(list(part.slices)))
    for chain in chains:
        count = len({one.about.series for one in chain.slices})
        if count > 1:
            chain.notes.append(f"{count} series (SeriesInstanceUID) continue one another, and were read as one")
    return chains


def _continues(part: Part, chain: Part, usual: float) -> bool:
    steps = [step for step in (typical_step(chain.slices), typical_step(part.slices)) if step]
    step = steps[0] if steps else usual
    gap = part.span[0] - chain.span[1]
    near = CONTINUES[0] * step <= gap <= CONTINUES[1] * step
    return near and max(steps, default=step) <= (1 + LIKE) * min(steps, default=step)
