"""The common interface of all detectors: marks with a confidence, a place and a diameter."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from ..config import PeakDetection
from ..data.lungs import Lungs
from ..types import Affine, FloatArray, Scan
from .findings import PlacedPeak
from .sliding_window import Progress

__all__ = ["Answer", "Detector", "Search"]


class Answer(NamedTuple):
    """A detector's result. The value of `heat` at each peak is at least the peak's confidence."""

    peaks: list[PlacedPeak]  # including candidates, strongest first
    heat: FloatArray  # (X, Y, Z), 0 to 1, for viewers
    affine: Affine  # of `heat`, RAS+
    windows: int  # windows computed
    retried: int  # batches repeated in float32 because half precision overflowed
    everywhere: bool  # whether the whole scan was searched, not only the lungs


Search: TypeAlias = Callable[[PeakDetection, Progress | None], Answer]


class Detector(Protocol):
    """A loaded detector. Several threads may use one."""

    @property
    def precision(self) -> str:
        """The number format that the device computes in."""

    @property
    def engine(self) -> str:
        """The engine that computes the network."""

    def prepare(self, scan: Scan, lungs: Lungs) -> Search:
        """Resample and normalise the scan for this detector.

        Raises:
            BadScan: the scan is too large for the detector.
        """
