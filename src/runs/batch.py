"""Batches: any number of scans through one loaded model.

While a scan is inferred, `inference.num_workers` threads read the next ones (see `read_ahead`), and one thread writes
the results of the last. Without workers the calling thread does everything in turn.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import Config, load_config
from ..data.survey import twin_message
from ..errors import BadCheckpoint, BadConfig, BadOutput, BadScan, PivotError
from ..files import writable_folder
from ..given import path_of
from ..guidelines.patient import Patient
from ..types import Results
from .outputs import check_outputs, check_scan, is_complete, load_writers, write_batch_table, write_outputs
from .progress import WARNING, BatchResults, Listener, ListenerError, as_raised, guarded, silent
from .read_ahead import Readied, executor, read_ahead, read_timed
from .settings import with_options
from .sharding import place_of, scans_of

if TYPE_CHECKING:
    import torch

    from ..detection.pipeline import InferencePipeline
    from ..detectors.opening import GivenModel

__all__ = [
    "FATAL",
    "BatchResults",
    "Turns",
    "batch_inference",
    "infer_file",
    "open_pipeline",
]

log = logging.getLogger("pivot")
# These errors would recur with every scan. BrokenPipeError: the program that reads the progress has ended.
FATAL = (BadCheckpoint, BadConfig, BadOutput, BrokenPipeError)


class Turns(NamedTuple):
    """Locks for several scans in one process. The time that a scan waits for them is not counted."""

    infer: AbstractContextManager[object] = nullcontext()
    write: AbstractContextManager[object] = nullcontext()


AT_ONCE = Turns()


def batch_inference(  # noqa: PLR0913 - the documented call
    checkpoint: "GivenModel" = None,
    input_dir: str | Path = ".",
    output_dir: str | Path = "results",
    config: Config | dict[str, Any] | str | Path | None = None,
    num_workers: int | None = None,
    batch_size: int | None = None,
    *,
    device: "str | torch.device | None" = None,
    resume: bool = False,
    progress: Listener = silent,
    shard: tuple[int, int] = (0, 1),
    recursive: bool = False,
) -> BatchResults:
    """Run over every scan in a folder. A scan that fails is reported in `failed` and does not stop the others.

    Args:
        checkpoint: as for `InferencePipeline`.
        input_dir: a folder of files, zips and DICOM folders, or a DICOM folder.
        output_dir: is made if it is missing. It must differ from `input_dir`.
        config: a YAML file, a mapping or a `Config`.
        num_workers: overrides `inference.num_workers`. With 0, reading and writing alternate with inference.
        batch_size: overrides `inference.batch_size`.
        device: overrides `model.device`.
        resume: skip scans whose outputs are complete, and come from the same content, model and settings.
        progress: is called with the events of `runs.progress`, from two threads. If it raises, the run ends with this
            error. Finished scans stay finished.
        shard: (index from 0, count). Only this part of the folder is done.
        recursive: include subfolders. Their results go into folders of the same names.

    Raises:
        BadConfig: the configuration is wrong, or contradicts the model.
        BadScan: the folder holds no scans.
        BadCheckpoint: the model cannot be loaded, or its output is NaN.
        BadOutput: `output_dir` cannot be written to.
    """
    settings = with_options(load_config(config), batch_size=batch_size, num_workers=num_workers)
    pipeline = open_pipeline(checkpoint, settings, device, output_dir)
    found = scans_of(input_dir, output_dir, shard, recursive=recursive)
    run = _Run(pipeline, Path(output_dir), guarded(progress), base=Path(input_dir) if recursive else None)
    run.all(found.scans, resume=resume, twins=found.twins)
    run.table(found.scans, shard)
    return run.summary(found.passed_over)


def infer_file(
    pipeline: "InferencePipeline",
    path: str | Path,
    output_dir: str | Path,
    *,
    resume: bool = False,
    progress: Listener = silent,
    patient: Patient | None = None,
    turns: Turns = AT_ONCE,
    read: Callable[[Path], Readied] | None = None,
) -> BatchResults:
    """Run over one scan. An error is raised, not reported.

    `patient` is for the guidelines. `read` replaces `read_timed` if the scan is read elsewhere.

    Raises:
        PivotError: any failure. The message begins with the path if the scan is at fault.
    """
    run = _Run(pipeline, Path(output_dir), guarded(progress), patient, turns, read or read_timed)
    run.all([Path(path)], resume=resume)
    for failure in run.failures.values():
        raise failure
    return run.summary()


def open_pipeline(
    checkpoint: "GivenModel",
    config: Config,
    device: "str | torch.device | None",
    output_dir: str | Path,
) -> "InferencePipeline":
    """Load the model, after a check that results can be written."""
    check_outputs(config)
    writable_folder(path_of(output_dir, "output_dir", BadOutput))
    from ..detection.pipeline import InferencePipeline  # noqa: PLC0415 - torch takes seconds

    return InferencePipeline(checkpoint, config, device)


@dataclass
class _Run:
    """Processes scans one after another, and counts the results."""

    pipeline: "InferencePipeline"
    folder: Path
    notify: Listener
    patient: Patient | None = None
    turns: Turns = AT_ONCE
    read: Callable[[Path], Readied] = field(default_factory=lambda: read_timed)
    failures: dict[str, PivotError] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    detections: int = 0
    seconds: list[float] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    writing: Future[None] | None = None
    base: Path | None = None  # results keep their scan's subfolder of this folder

    @as_raised()
    def all(self, paths: Sequence[Path], *, resume: bool, twins: Mapping[Path, Path] = MappingProxyType({})) -> None:
        for path in (path for path in paths if path in twins):
            with self._failing(path):
                raise BadScan(twin_message(path, twins[path]))
        todo = [path for path in paths if path not in twins and not (resume and self._skip(path))]
        workers = self.pipeline.config.inference.num_workers
        most = workers * self.pipeline.config.inference.prefetch_factor
        with executor(workers) as readers, executor(min(1, workers)) as writer:
            with closing(read_ahead(readers, self.read, todo, most)) as scans:
                for index, (path, reading) in enumerate(scans, start=1):
                    self.notify({"event": "start", "scan": str(path), "index": index, "total": len(todo)})
                    self._infer(path, reading, writer)
            self._wait()

    @as_raised()
    def summary(self, passed_over: Mapping[str, str] = MappingProxyType({})) -> BatchResults:
        results = BatchResults(
            num_scans=len(self.seconds),
            total_detections=self.detections,
            avg_time=sum(self.seconds) / len(self.seconds) if self.seconds else 0.0,
            failed={path: str(failure) for path, failure in self.failures.items()},
            skipped=self.skipped,
            notes=self.notes,
            passed_over=dict(passed_over),
        )
        self.notify({"event": "summary", **results})
        return results

    def table(self, paths: Sequence[Path], shard: tuple[int, int]) -> None:
        """Write the findings of all scans into one table, those of earlier runs too; each shard has its own."""
        complete = {*self.finished, *self.skipped}
        done = [path for path in paths if str(path) in complete]
        write_batch_table(done, self.pipeline.config, self._place, self.folder, shard)

    def _skip(self, path: Path) -> bool:
        complete = is_complete(path, self.pipeline.config, self._place(path), self.pipeline.origin)
        if complete:
            self.skipped.append(str(path))
            self.notify({"event": "skipped", "scan": str(path)})
        return complete

    def _place(self, path: Path) -> Path:
        """The folder for the results of a scan."""
        return place_of(path, self.folder, self.base)

    def _infer(self, path: Path, reading: Future[Readied], writer: Executor) -> None:
        """Infer the scan. Its results are written after those of the scan before it."""
        self.writing = self.writing or writer.submit(load_writers, self.pipeline.config)
        with self._failing(path):
            read = reading.result()
            check_scan(read.scan, self.pipeline.config, path, self.folder)
            with self.turns.infer:
                start = time.perf_counter()
                results = self.pipeline.predict_read(
                    read.scan, read.lungs, partial(self._window, path), self.patient or Patient()
                )
                seconds = time.perf_counter() - start
            results["metadata"]["input_sha256"] = read.sha256
            self._wait()
            self.writing = writer.submit(self._write, path, read, results, seconds)
            self._check()

    def _window(self, path: Path, done: int, total: int) -> None:
        self.notify({"event": "windows", "scan": str(path), "done": done, "total": total})
        self._check()

    def _check(self) -> None:
        """Raise the error of the last writing at once, so that a full disk ends the run before the next scan."""
        if self.writing and self.writing.done():
            self.writing.result()

    def _wait(self) -> None:
        if self.writing:
            self.writing.result()

    def _write(self, path: Path, read: Readied, results: Results, seconds: float) -> None:
        with self._failing(path), self.turns.write:
            start = time.perf_counter()
            outputs = write_outputs(read.scan, results, self.pipeline.config, self._place(path), read.seconds, path)
            self.seconds.append(read.seconds + seconds + time.perf_counter() - start)
            self.finished.append(str(path))
            self.detections += len(results["detections"])
            notes = [*read.scan.notes, *(f"{WARNING}: {one}" for one in results["summary"]["warnings"])]
            self.notes |= {str(path): notes} if notes else {}
            self.notify(
                {
                    "event": "finished",
                    "scan": str(path),
                    "scan_id": results["scan_id"],
                    "detections": len(results["detections"]),
                    "masses": len(results["masses"]),
                    "lung_rads": results["summary"]["lung_rads"]["category"],
                    "lungs": results["metadata"]["lungs"]["recognised"],
                    "seconds": round(self.seconds[-1], 3),
                    "outputs": [str(output) for output in outputs],
                    "notes": notes,
                }
            )

    @contextmanager
    def _failing(self, path: Path) -> Iterator[None]:
        """Record an error of this scan. Raise an error that would recur with every scan."""
        try:
            yield
        except (*FATAL, ListenerError):
            raise
        except Exception as error:  # a faulty scan must not stop the others
            log.debug("%s failed", path, exc_info=True)
            failure = _plain(path, error)
            self.failures[str(path)] = failure
            self.notify({"event": "failed", "scan": str(path), "error": type(error).__name__, "message": str(failure)})


def _plain(path: Path, error: Exception) -> PivotError:
    """The error in words for the user. It is a new one: the old one's traceback would keep the scan in memory."""
    match error:
        case PivotError():
            message = str(error)
        case MemoryError():
            message = "not enough memory to write its results"
        case BrokenExecutor():
            message = "the process that read it has died: is there enough memory?"
        case _:
            message = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; --verbose shows more"
    kind = type(error) if isinstance(error, PivotError) else PivotError
    return kind(message if message.startswith(f"{path}: ") else f"{path}: {message}")
