"""Test-time augmentation: the same scan seen flipped and rotated, the way back, and a network's mean answer."""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..config import AUGMENTATIONS, Augmentation
from ..errors import BadCheckpoint
from ..model.device import autocast
from ..model.unet import grid_of

__all__ = ["IDENTITY", "Box", "View", "ViewedNetwork", "views"]

Box = tuple[slice, slice, slice]
Axes = tuple[int, int, int]


class View(NamedTuple):
    """A way to look at a (..., X, Y, Z) tensor, and its exact inverse: axes mirrored, then put in another order."""

    name: str
    order: Axes  # the scan's axis that runs along each of the view's
    mirrored: tuple[bool, bool, bool]  # for each of the scan's axes

    def forward(self, x: Tensor) -> Tensor:
        """The scan as the view shows it."""
        return _permuted(self._flipped(x), self.order)

    def inverse(self, x: Tensor) -> Tensor:
        """What was found in the view, as it lies in the scan."""
        a, b, c = (self.order.index(axis) for axis in range(3))
        return self._flipped(_permuted(x, (a, b, c)))

    def then(self, other: "View") -> "View":
        """The view that shows what `other` shows of this one."""
        a, b, c = (self.order[axis] for axis in other.order)
        x, y, z = (self.mirrored[axis] != other.mirrored[self.order.index(axis)] for axis in range(3))
        return View(f"{self.name}+{other.name}", (a, b, c), (x, y, z))

    def _flipped(self, x: Tensor) -> Tensor:
        return x.flip([axis - 3 for axis, turned in enumerate(self.mirrored) if turned]) if any(self.mirrored) else x


def _permuted(x: Tensor, order: Axes) -> Tensor:
    first = x.ndim - 3
    return x.permute(*range(first), *(first + axis for axis in order))


def _flip(axis: int) -> tuple[Axes, tuple[bool, bool, bool]]:
    return (0, 1, 2), (axis == 0, axis == 1, axis == 2)


def _rotate(a: int, b: int) -> tuple[Axes, tuple[bool, bool, bool]]:
    """By 90 degrees from axis `a` towards axis `b`."""
    x, y, z = ({a: b, b: a}.get(axis, axis) for axis in range(3))
    return (x, y, z), _flip(b)[1]


IDENTITY = View("identity", (0, 1, 2), (False, False, False))
MOVES: dict[Augmentation, View] = {
    "flip_x": View("flip_x", *_flip(0)),
    "flip_y": View("flip_y", *_flip(1)),
    "flip_z": View("flip_z", *_flip(2)),
    "rotate_90_xy": View("rotate_90_xy", *_rotate(0, 1)),
    "rotate_90_xz": View("rotate_90_xz", *_rotate(0, 2)),
    "rotate_90_yz": View("rotate_90_yz", *_rotate(1, 2)),
}


def views(count: int, augmentations: Sequence[Augmentation] = AUGMENTATIONS) -> list[View]:
    """The first `count` different views: the scan as it is, each augmentation, then their combinations.

    Fewer come back where the augmentations generate fewer (one flip: two views); the cube has 48.
    """
    seen: dict[tuple[Axes, tuple[bool, bool, bool]], View] = {}
    for view in _combinations(augmentations):
        seen.setdefault((view.order, view.mirrored), view)
        if len(seen) == count:
            break
    return list(seen.values())


def _combinations(augmentations: Sequence[Augmentation]) -> Iterator[View]:
    """All sequences of moves, shortest first; five moves reach every view that the six can make."""
    yield IDENTITY
    for length in range(1, 6):
        for names in product(augmentations, repeat=length):
            yield reduce(View.then, [MOVES[name] for name in names])


class ViewedNetwork:
    """A model with its precision, views and retries: (N, 1, X, Y, Z) in, (N, C, ...) float32 out, on its device.

    Mirrored views need patches that are `wider` by the voxels that the answer leans (`_shown`).
    """

    def __init__(self, model: torch.nn.Module, device: torch.device, dtype: torch.dtype, views: Sequence[View]) -> None:
        self.model, self.device, self.dtype, self.views = model, device, dtype, views
        self.lean = grid_of(model).lean if any(any(view.mirrored) for view in views) else 0
        self.retried = 0

    def widened(self, volume: Tensor) -> Tensor:
        """The volume with the voxels beyond its ends that wider patches hold, like those at its ends."""
        beyond = (max(self.lean, 0), max(-self.lean, 0))
        return functional.pad(volume[None, None], beyond * 3, mode="replicate")[0, 0] if self.lean else volume

    def wider(self, window: Box) -> Box:
        """The place of a window's patch in the widened volume."""
        x, y, z = (slice(part.start, part.stop + abs(self.lean)) for part in window)
        return x, y, z

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """The mean over the views; raises `BadCheckpoint` where it is NaN or infinite even in float32."""
        output = self._run(batch, self.dtype)
        if not output.isfinite().all() and self.dtype != torch.float32:
            self.retried += 1
            output = self._run(batch, torch.float32)
        if not output.isfinite().all():
            msg = "the model answers with NaN or infinity: its weights are damaged"
            raise BadCheckpoint(msg)
        return output

    def _run(self, batch: Tensor, dtype: torch.dtype) -> Tensor:
        with autocast(self.device, dtype):
            outputs = [view.inverse(self.model(_shown(view, batch, self.lean))).float() for view in self.views]
        return torch.stack(outputs).mean(dim=0)


def _shown(view: View, patches: Tensor, lean: int) -> Tensor:
    """What the view shows of patches (N, 1, X, Y, Z), so that the answers of all views lie on the same voxels.

    Answers of a mirrored patch lie `lean` voxels (`AnswerGrid.lean`) too far, so it is cut that much earlier: each
    patch has so many voxels more, before it, or behind it if `lean` is negative.
    """
    for axis, turned in enumerate(view.mirrored, start=-3):
        patches = patches.narrow(axis, max(lean, 0) - lean * turned, patches.shape[axis] - abs(lean))
    return view.forward(patches)
