"""Test-time augmentation: the same scan seen flipped and rotated, and the way back."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import AUGMENTATIONS, Augmentation

__all__ = ["IDENTITY", "View", "views"]

Move = Callable[[Tensor], Tensor]
X, Y, Z = -3, -2, -1  # tensors are (..., X, Y, Z)


class View(NamedTuple):
    """A way to look at a (..., X, Y, Z) tensor and its exact inverse."""

    name: str
    forward: Move
    inverse: Move


def _flip(axis: int) -> tuple[Move, Move]:
    def flip(x: Tensor) -> Tensor:
        return x.flip(axis)

    return flip, flip


def _rotate(a: int, b: int) -> tuple[Move, Move]:
    return lambda x: torch.rot90(x, 1, (a, b)), lambda x: torch.rot90(x, -1, (a, b))


IDENTITY = View("identity", lambda x: x, lambda x: x)
MOVES: dict[Augmentation, View] = {
    "flip_x": View("flip_x", *_flip(X)),
    "flip_y": View("flip_y", *_flip(Y)),
    "flip_z": View("flip_z", *_flip(Z)),
    "rotate_90_xy": View("rotate_90_xy", *_rotate(X, Y)),
    "rotate_90_xz": View("rotate_90_xz", *_rotate(X, Z)),
    "rotate_90_yz": View("rotate_90_yz", *_rotate(Y, Z)),
}


def views(count: int, augmentations: Sequence[Augmentation] = AUGMENTATIONS) -> list[View]:
    """The first `count` different views: the scan as it is, each augmentation, then their combinations.

    Fewer come back where the augmentations generate fewer (one flip: two views); the cube has 48.
    """
    probe = torch.arange(27).reshape(3, 3, 3)
    seen: dict[tuple[int, ...], View] = {}
    for view in _combinations(augmentations):
        seen.setdefault(tuple(view.forward(probe).flatten().tolist()), view)
        if len(seen) == count:
            break
    return list(seen.values())


def _combinations(augmentations: Sequence[Augmentation]) -> Iterator[View]:
    """All sequences of moves, shortest first; five moves reach every view that the six can make."""
    for length in range(6):
        for names in product(augmentations, repeat=length):
            yield _compose([MOVES[name] for name in names])


def _compose(moves: Sequence[View]) -> View:
    def forward(x: Tensor) -> Tensor:
        for move in moves:
            x = move.forward(x)
        return x

    def inverse(x: Tensor) -> Tensor:
        for move in reversed(moves):
            x = move.inverse(x)
        return x

    return View("+".join(move.name for move in moves) or IDENTITY.name, forward, inverse)
