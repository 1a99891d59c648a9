"""Splits the scans of a folder among independent commands, such as the tasks of a Slurm array."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ..data.survey import Survey, survey
from ..errors import BadConfig, BadOutput, BadScan
from ..given import path_of

__all__ = ["place_of", "scans_of", "shard_of"]

Item = TypeVar("Item")


def shard_of(items: Sequence[Item], index: int, count: int) -> Sequence[Item]:
    """Part `index` (from 0) of `count`. Every item is in one part. The parts' sizes differ by one at most.

    Each command must see the same items in the same order. Neighbours go to different parts.

    Raises:
        BadConfig: there is no such part.
    """
    if not 0 <= index < count:
        msg = f"there is no part {index} of {count}: shard indices run from 0 to {count - 1}"
        raise BadConfig(msg)
    return items[index::count]


def scans_of(
    input_dir: str | Path, output_dir: str | Path, shard: tuple[int, int] = (0, 1), *, recursive: bool = False
) -> Survey:
    """The scans in a folder, or one part of them, in the order of `batch_inference`.

    Raises:
        BadConfig: the output folder is the input folder, or there is no such part.
        BadScan: the folder holds no scans.
    """
    source = path_of(input_dir, "input_dir", BadScan)
    if source.resolve() == path_of(output_dir, "output_dir", BadOutput).resolve():
        msg = f"the output folder {output_dir} is the input folder: heatmaps in it would be taken for scans"
        raise BadConfig(msg)
    found = survey(input_dir, recursive=recursive)
    return found._replace(scans=list(shard_of(found.scans, *shard)))


def place_of(scan: Path, output_dir: Path, base: Path | None) -> Path:
    """The folder for a scan's results: `output_dir`, or its subfolder with the scan's path below `base`."""
    return output_dir if base is None or scan == base else output_dir / scan.parent.relative_to(base)
