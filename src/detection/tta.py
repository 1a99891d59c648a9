"""Test-time augmentation: flipped and rotated views of a scan, their inverses, and a network's mean output."""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..config import AUGMENTATIONS, Augmentation
from ..data.resample import Box
from ..errors import BadCheckpoint
from ..model.device import autocast
from ..model.unet import output_grid

__all__ = ["IDENTITY", "View", "ViewedNetwork", "views"]

Axes = tuple[int, int, int]


class View(NamedTuple):
    """A view of a (..., X, Y, Z) tensor, and its exact inverse: axes are mirrored, then permuted."""

    name: str
    order: Axes  # for each axis of the view: the scan's axis
    mirrored: tuple[bool, bool, bool]  # for each axis of the scan

    def forward(self, x: Tensor) -> Tensor:
        """The view of a scan."""
        return _permuted(self._flipped(x), self.order)

    def inverse(self, x: Tensor) -> Tensor:
        """A map of the view, on the scan's axes."""
        a, b, c = (self.order.index(axis) for axis in range(3))
        return self._flipped(_permuted(x, (a, b, c)))

    def then(self, other: "View") -> "View":
        """The view `other` of this view."""
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
    """A rotation by 90 degrees from axis `a` towards axis `b`."""
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
    """The first `count` different views: the scan itself, each augmentation, then their combinations.

    There are fewer if the augmentations generate fewer: one flip gives two views. A cube has 48.
    """
    seen: dict[tuple[Axes, tuple[bool, bool, bool]], View] = {}
    for view in _combinations(augmentations):
        seen.setdefault((view.order, view.mirrored), view)
        if len(seen) == count:
            break
    return list(seen.values())


def _combinations(augmentations: Sequence[Augmentation]) -> Iterator[View]:
    """All sequences of moves, shortest first. Five moves reach every view that the six moves generate."""
    yield IDENTITY
    for length in range(1, 6):
        for names in product(augmentations, repeat=length):
            yield reduce(View.then, [MOVES[name] for name in names])


class ViewedNetwork:
    """A model with its precision, views and retries: (N, 1, X, Y, Z) in, (N, C, ...) float32 out, on its device.

    Mirrored views need patches that are wider by `shift` voxels (see `_shown`).
    """

    def __init__(self, model: torch.nn.Module, device: torch.device, dtype: torch.dtype, views: Sequence[View]) -> None:
        self.model, self.device, self.dtype, self.views = model, device, dtype, views
        self.shift = output_grid(model).mirror_shift if any(any(view.mirrored) for view in views) else 0
        self.retried = 0

    def widened(self, volume: Tensor) -> Tensor:
        """The volume, extended for the wider patches by repeating the voxels at its ends."""
        beyond = (max(self.shift, 0), max(-self.shift, 0))
        return functional.pad(volume[None, None], beyond * 3, mode="replicate")[0, 0] if self.shift else volume

    def wider(self, window: Box) -> Box:
        """The place of a window's patch in the widened volume."""
        x, y, z = (slice(part.start, part.stop + abs(self.shift)) for part in window)
        return x, y, z

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """The mean over the views.

        Raises:
            BadCheckpoint: it is NaN or infinite even in float32.
        """
        output = self._run(batch, self.dtype)
        if not output.isfinite().all() and self.dtype != torch.float32:
            self.retried += 1
            output = self._run(batch, torch.float32)
        if not output.isfinite().all():
            msg = "the model's output is NaN or infinite: its weights are damaged"
            raise BadCheckpoint(msg)
        return output

    def _run(self, batch: Tensor, dtype: torch.dtype) -> Tensor:
        with autocast(self.device, dtype):
            outputs = [view.inverse(self.model(_shown(view, batch, self.shift))).float() for view in self.views]
        return torch.stack(outputs).mean(dim=0)


def _shown(view: View, patches: Tensor, shift: int) -> Tensor:
    """The view of patches (N, 1, X, Y, Z), cut so that the outputs of all views lie on the same voxels.

    The output of a mirrored patch lies `shift` voxels too far (`OutputGrid.mirror_shift`), so its patch starts `shift`
    voxels earlier. Each patch has as many extra voxels: before it, or after it if `shift` is negative.
    """
    for axis, turned in enumerate(view.mirrored, start=-3):
        patches = patches.narrow(axis, max(shift, 0) - shift * turned, patches.shape[axis] - abs(shift))
    return view.forward(patches)
