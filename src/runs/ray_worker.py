"""A Ray actor: it holds one loaded model, and fetches, reads, infers and writes scans.

Each scan has a thread. While one scan is inferred, others are read and written.
"""

import glob
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..config import Config
from ..detection.pipeline import InferencePipeline
from ..errors import BadScan, PivotError
from ..files import writable_folder
from .batch import FATAL, Turns, infer_file
from .outputs import is_complete
from .progress import Event
from .sharding import place_of

__all__ = ["RayWorker", "local_copy"]


class RayWorker:
    """An actor of `ray_pool`.

    Results go to `output_dir`, which every machine must see under this name. Results of scans below `base` go into
    folders of the same names.
    """

    def __init__(self, config: Config, device: str, output_dir: str, resume: bool, base: str | None = None) -> None:  # noqa: FBT001 - Ray passes positions
        self.config, self.device, self.folder, self.resume = config, device, Path(output_dir), resume
        self.base = None if base is None else Path(base)
        self.turns = Turns(threading.Lock(), threading.Lock())

    def load(self, name: str, content: bytes) -> str:
        """Load the model from a file's name and content. Return the id of the machine.

        Raises:
            PivotError: this machine cannot load it, or cannot write results.
        """
        import ray  # noqa: PLC0415 - only where there is an actor

        writable_folder(self.folder)
        with tempfile.TemporaryDirectory(prefix="pivot-") as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            self.pipeline = InferencePipeline(path, self.config, self.device)
        return str(ray.get_runtime_context().get_node_id())

    def infer(self, source: str) -> Event:
        """The `finished`, `skipped` or `failed` event of the scan at a path or URL. Its message names no path.

        Raises:
            PivotError: an error that would recur with every scan on this machine.
        """
        events: list[Event] = []
        try:
            with local_copy(source) as path:
                folder = place_of(path, self.folder, self.base)
                if self.resume and is_complete(path, self.config, folder, self.pipeline.origin):
                    return {"event": "skipped"}
                infer_file(self.pipeline, path, writable_folder(folder), progress=events.append, turns=self.turns)
        except FATAL:
            raise
        except PivotError as error:
            failed = {"event": "failed", "scan": source, "error": type(error).__name__, "message": str(error)}
            failed = next((event for event in events if event["event"] == "failed"), failed)
            return {**failed, "message": failed["message"].removeprefix(f"{failed['scan']}: ")}
        return next(event for event in events if event["event"] == "finished")


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """The scan as a file or folder on this machine. A downloaded copy is removed afterwards.

    Raises:
        BadScan: it cannot be fetched.
    """
    if "://" not in source:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="pivot-") as folder:
        yield _fetch(source, Path(folder))


def _fetch(source: str, folder: Path) -> Path:
    """Download the scan into `folder`, unless its file system is this machine's own."""
    import fsspec  # noqa: PLC0415 - comes with the extra `ray`
    from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415

    try:
        system, path = fsspec.url_to_fs(source)
        if isinstance(system, LocalFileSystem):
            return Path(path)
        name = PurePosixPath(path).name
        if system.isdir(path):
            system.get(path, str(folder / name), recursive=True)
        elif name.lower().endswith(".mhd"):  # its voxels are in a file beside it
            for file in system.glob(f"{glob.escape(path[: -len('.mhd')])}.*"):
                system.get(file, str(folder / PurePosixPath(file).name))
        else:
            system.get(path, str(folder / name))
    except Exception as error:  # storage drivers raise anything
        msg = f"{source}: cannot be fetched ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise BadScan(msg) from error
    return folder / name
