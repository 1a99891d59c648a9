"""Splitting one list of scans among any number of independent commands, such as the tasks of a Slurm array."""

from collections.abc import Sequence
from typing import TypeVar

from ..errors import BadConfig

__all__ = ["shard_of"]

Item = TypeVar("Item")


def shard_of(items: Sequence[Item], index: int, count: int) -> Sequence[Item]:
    """Part `index` (from 0) of `count`: every item is in one part, and their sizes differ by one at most.

    Each command must see the same items in the same order; neighbours go to different parts.

    Raises:
        BadConfig: there is no such part.
    """
    if not 0 <= index < count:
        msg = f"there is no part {index} of {count}: shard indices run from 0 to the number of shards less one"
        raise BadConfig(msg)
    return items[index::count]
