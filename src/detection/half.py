"""Half precision for networks that nobody measured in it: only if it hardly changes what they say."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from ..model.device import precision

__all__ = ["Precision"]

TOLERANCE = 0.02  # of a probability


class Precision:
    """The type that a network computes in on a device: the fast one, if it passes a test on the first scan."""

    def __init__(self, device: torch.device, *, mixed: bool) -> None:
        self.dtype = precision(device, mixed=mixed)
        self.tested = self.dtype == torch.float32
        self.testing = threading.Lock()

    @property
    def name(self) -> str:
        """For reports."""
        return str(self.dtype).removeprefix("torch.")

    def test(self, probability: Callable[[torch.dtype], Tensor]) -> None:
        """Go on in float32 if the given probability, as computed in either type, differs by more than `TOLERANCE`."""
        with self.testing:
            if not self.tested:
                difference = (probability(self.dtype) - probability(torch.float32)).abs().max()
                self.dtype = self.dtype if float(difference) <= TOLERANCE else torch.float32  # NaN is no match
                self.tested = True
