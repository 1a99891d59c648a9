"""The files of a published model: in a folder, in a zip, or one file with its description beside it.

They are only read, never unpacked and never run. Names that the model gives are looked up among its own files.
"""

import hashlib
import io
import json
import pickle
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from ..errors import BadCheckpoint
from ..model.checkpoint import first_line
from ..plain_yaml import BadYaml, parse_yaml

__all__ = ["Source", "Weights", "plain_weights"]

Weights = dict[str, torch.Tensor]
MOST_TEXT = 2**22  # bytes of a description
MOST_WEIGHTS = 2**32  # bytes of a file of weights
MOST_FILES = 10_000  # in a zip
MOST_SHRUNK = 100  # times that a file in a zip may be larger than its compressed form; weights hardly shrink
WRAPPERS = ("state_dict", "model_state_dict", "model", "network_weights", "net")  # keys under which weights lie
# NumPy's names in the pickles of nnU-Net's checkpoints.
NUMBERS = (
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool")),
)
TEXTS = (".json", ".yaml", ".yml")
CONVERT = (
    "it holds Python objects, and unpickling them would run code, so PIVOT ran nothing. If you trust its origin, write "
    "its weights alone: python -c \"import torch; data = torch.load('IN', weights_only=False); "
    "torch.save(data.get('state_dict', data), 'OUT')\""
)


class Source:
    """The files at a path, by their names relative to it, with forward slashes.

    Args:
        path: a folder, a `.zip`, or a file: then the files are those of its folder.
        within: a folder that links may lead to. By default the folder itself.

    Raises:
        BadCheckpoint: there is nothing, or a zip with names that lead outside, links, or that is damaged.
    """

    def __init__(self, path: Path, within: Path | None = None) -> None:
        self.path = path
        self.hashes: dict[str, str] = {}  # of the files that were read
        self.zip = path.suffix.lower() == ".zip"
        self.folder = path if path.is_dir() else path.parent
        self.within = (within or self.folder).resolve()
        if not path.exists():
            msg = f"cannot read the checkpoint {path}: No such file or directory"
            raise BadCheckpoint(msg)

    @property
    def sha256(self) -> str:
        """Of the file that was read; of the names and hashes of all, if there were several."""
        if len(self.hashes) == 1:
            return next(iter(self.hashes.values()))
        lines = (f"{digest}  {name}\n" for name, digest in sorted(self.hashes.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._members if self.zip else (self.folder / name).is_file()

    def first(self, *names: str) -> str | None:
        """The first of these names that there is a file of."""
        return next((name for name in names if self.has(name)), None)

    def one_of(self, *names: str) -> str:
        """The first of these names that there is a file of.

        Raises:
            BadCheckpoint: there is none.
        """
        if (found := self.first(*names)) is None:
            msg = f"{self.path} lacks {' or '.join(names)}"
            raise BadCheckpoint(msg)
        return found

    def read(self, name: str, most: int = MOST_WEIGHTS) -> bytes:
        """The content of a file.

        Raises:
            BadCheckpoint: there is none, it lies elsewhere, or it has more than `most` bytes.
        """
        try:
            with self._open(name) as file:
                content = file.read(most + 1)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            msg = f"cannot read {name} of {self.path}: {first_line(error)}"
            raise BadCheckpoint(msg) from None
        if len(content) > most:
            msg = f"{name} of {self.path} has more than {most} bytes"
            raise BadCheckpoint(msg)
        self.hashes[name] = hashlib.sha256(content).hexdigest()
        return content

    def data(self, name: str) -> dict[str, Any]:
        """The mapping in a JSON or YAML file. Nothing in it is evaluated.

        Raises:
            BadCheckpoint: it is none.
        """
        content = self.read(name, MOST_TEXT)
        try:
            text = content.decode("utf-8")
            found = _json(text) if name.endswith(".json") else parse_yaml(text)
        except (BadYaml, ValueError, RecursionError) as error:
            msg = f"{name} of {self.path} cannot be read: {first_line(error)}"
            raise BadCheckpoint(msg) from None
        if not isinstance(found, dict):
            msg = f"{name} of {self.path} holds no keys"
            raise BadCheckpoint(msg)
        return found

    def weights(self, name: str) -> Weights:
        """The tensors in a `.pth`, `.pt` or `.safetensors` file, by their names in the network.

        Raises:
            BadCheckpoint: it needs unpickling of code, is damaged, or holds no weights.
        """
        return plain_weights(f"{name} of {self.path}", self.loaded(name))

    def loaded(self, name: str) -> object:
        """What a `.pth`, `.pt` or `.safetensors` file holds: tensors and plain values; NumPy's numbers are left out.

        Raises:
            BadCheckpoint: it needs unpickling of code, or is damaged.
        """
        where, content = f"{name} of {self.path}", self.read(name)
        try:
            return load_safetensors(content) if name.endswith(".safetensors") else _unpickled(content)
        except pickle.UnpicklingError:
            msg = f"{where} is refused: {CONVERT}"
            raise BadCheckpoint(msg) from None
        except (SafetensorError, Exception) as error:  # noqa: BLE001 - a garbled pickle raises anything
            msg = f"{where} is damaged or holds no weights ({first_line(error)})"
            raise BadCheckpoint(msg) from None

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        if self.zip:
            if name not in self._members:
                raise FileNotFoundError(2, "No such file")
            with zipfile.ZipFile(self.path) as archive, archive.open(self._members[name]) as member:
                yield member
            return
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.within):
            raise PermissionError(1, "it is a link to a place outside")
        with path.open("rb") as file:
            yield file

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """The files in the zip, below the folders that hold them all."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            msg = f"{self.path} is damaged or no zip ({first_line(error)})"
            raise BadCheckpoint(msg) from None
        if fault := _fault(infos):
            msg = f"{self.path} is refused: {fault}"
            raise BadCheckpoint(msg)
        shared = _shared([info.filename for info in infos])
        return {info.filename.removeprefix(shared): info for info in infos}


def _shared(names: list[str]) -> str:
    """The folders that hold all of these files, with a slash at the end; empty if there are none."""
    folders = [name.split("/")[:-1] for name in names]
    shared = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))]
    return "".join(f"{folder}/" for folder in shared)


def _fault(infos: list[zipfile.ZipInfo]) -> str | None:
    """What is wrong with the files of a zip."""
    if len(infos) > MOST_FILES or len({info.filename for info in infos}) < len(infos):
        return f"it holds a name twice, or more than {MOST_FILES} files"
    for info in infos:
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in info.filename:
            return f"{info.filename!r} leads outside"
        if stat.S_ISLNK(info.external_attr >> 16):
            return f"{info.filename!r} is a link"
        if info.file_size > MOST_SHRUNK * info.compress_size + MOST_TEXT:
            return f"{info.filename!r} grows from {info.compress_size} to {info.file_size} bytes"
    return None


class _LeftOut:
    """In place of a number of NumPy or its type, which training logs hold: nothing of NumPy is called."""

    def __init__(self, *_: object) -> None:
        """Whatever it was made of is dropped."""

    def __setstate__(self, _: object) -> None:
        """So is its state."""


def _unpickled(content: bytes) -> object:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        with torch.serialization.safe_globals([(_LeftOut, name) for name in NUMBERS]):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _json(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            msg = "a key is there twice"
            raise ValueError(msg)
        return found

    def refuse(number: str) -> None:
        msg = f"{number} is no number"
        raise ValueError(msg)

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor lies in memory as it is: not sparse, nor a small one that counts as large."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def plain_weights(where: str, found: object) -> Weights:
    """The weights in what was loaded, without wrappers. All of them are finite tensors in memory.

    Raises:
        BadCheckpoint: there are none, or others.
    """
    while isinstance(found, Mapping):
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping) or not found or not all(isinstance(key, str) for key in found):
        msg = f"{where} holds no weights: expected tensors by their names (a state dict)"
        raise BadCheckpoint(msg)
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or not _is_plain(tensor):
            msg = f"{where} holds {name!r}, which is no plain tensor"
            raise BadCheckpoint(msg)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            msg = f"{where} has weights that are NaN or infinite ({name}): the model is damaged"
            raise BadCheckpoint(msg)
    return {name.removeprefix("module."): tensor.detach() for name, tensor in found.items()}
