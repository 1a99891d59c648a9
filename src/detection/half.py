"""Half precision for networks without measurements in it: used only if it hardly changes their output."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from ..model.device import precision

__all__ = ["Precision"]

TOLERANCE = 0.05  # of a probability, as for PIVOT's own network in bfloat16


class Precision:
    """The number format for a network on a device: the fast one, if it passes a test on the first scan."""

    def __init__(self, device: torch.device, *, mixed: bool) -> None:
        self.dtype = precision(device, mixed=mixed)
        self.tested = self.dtype == torch.float32
        self.testing = threading.Lock()

    @property
    def name(self) -> str:
        """The format's name for reports."""
        return str(self.dtype).removeprefix("torch.")

    def test(self, probability: Callable[[torch.dtype], Tensor]) -> None:
        """Fall back to float32 if the probabilities in both formats differ by more than `TOLERANCE`."""
        with self.testing:
            if not self.tested:
                difference = (probability(self.dtype) - probability(torch.float32)).abs().max()
                self.dtype = self.dtype if float(difference) <= TOLERANCE else torch.float32  # NaN fails
                self.tested = True
