"""Any detector by its path: PIVOT's own checkpoints, and each format in `FORMATS`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ..errors import BadCheckpoint
from ..given import path_of
from ..model.checkpoint import Checkpoint, open_checkpoint
from .described import is_described, read_described
from .hub import is_address, local
from .monai_bundle import is_bundle, read_bundle
from .nnunet import is_nnunet, read_nnunet
from .program import EXPORTED, refuse_exported
from .recipe import Foreign, together
from .source import Source

__all__ = ["FORMATS", "Format", "GivenModel", "open_model"]

One: TypeAlias = Checkpoint | str | Path
GivenModel: TypeAlias = One | Sequence[One] | None


class Format(NamedTuple):
    """A format that detectors are published in."""

    name: str
    fits: Callable[[Source], bool]  # whether the files are of this format
    read: Callable[[Source], Foreign]


FORMATS = (
    Format("a MONAI bundle of a RetinaNet, with configs/inference.json", is_bundle, read_bundle),
    Format("a network of MONAI, with config.yaml", is_described, read_described),
    Format("a trained model of nnU-Net, with plans.json", is_nnunet, read_nnunet),
)


def open_model(given: GivenModel) -> Checkpoint:
    """A loaded detector as it is, or the detector at a path. Default: the shipped weights. Of several: all together.

    Raises:
        BadCheckpoint: the file is missing, damaged or of no known format, needs unpickling, or a library is missing.
    """
    if isinstance(given, list | tuple) and given:
        return open_model(given[0]) if len(given) == 1 else together([open_model(one) for one in given])
    if given is None or isinstance(given, Checkpoint):
        return open_checkpoint(given)
    path, within = path_of(given, "the checkpoint", BadCheckpoint), None
    if is_address(path):
        path, within = local(path)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return _read(Source(path, within))
    if path.is_file() and path.suffix.lower() == EXPORTED:
        refuse_exported(str(path))
    try:
        return open_checkpoint(path)
    except BadCheckpoint:
        if path.is_file() and is_described(source := Source(path, within)):
            return read_described(source)
        raise


def _read(source: Source) -> Foreign:
    for kind in FORMATS:
        if kind.fits(source):
            return kind.read(source)
    msg = f"{source.path} is no detector of a format that PIVOT knows ({'; '.join(kind.name for kind in FORMATS)})"
    raise BadCheckpoint(msg)
