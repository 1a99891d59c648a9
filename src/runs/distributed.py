"""Many scans on many machines, with Ray. Actors get paths, write the results, and return counts.

No volume passes through Ray. For each scan this process keeps its path, and a hash of its name, because two scans of
one name would overwrite each other.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import closing
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..config import Config, load_config
from ..data.loader import scan_name
from ..errors import BadConfig, BadOutput
from ..given import path_of, words_for
from .batch import BatchResults, open_pipeline
from .outputs import write_batch_table
from .progress import Event, Listener, silent
from .ray_worker import RayWorker
from .settings import with_options
from .sharding import place_of

if TYPE_CHECKING:
    from ..detectors.opening import GivenModel

__all__ = ["connect", "demand", "distributed_inference"]

PACKAGE = Path(__file__).resolve().parents[1]
# Excluded from a checkout: everything but what the actors need. "." is kept, because for Ray it is the checkout itself.
NEEDED = (PACKAGE.name, "calibration", "checkpoints")
LEFT_OUT = ["/??*", *(f"!/{name}{inside}" for name in NEEDED for inside in ("", "/**"))]
INSTALL = "pip install 'pivot-ct[ray]', or in a checkout: uv sync --extra ray"


def connect(address: str | None = "auto") -> ModuleType:
    """Join a Ray cluster, and return the module `ray`. `None` starts a cluster on this machine.

    In a checkout, its code is sent to the other machines.

    Raises:
        BadConfig: Ray is not installed, or there is no such cluster.
    """
    ray = _ray()
    checkout = (PACKAGE.parent / "pyproject.toml").is_file()
    environment = {"working_dir": str(PACKAGE.parent), "excludes": LEFT_OUT} if checkout else {}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        msg = f"cannot join the Ray cluster {address} ({reason}): start one with `ray start --head`"
        raise BadConfig(msg) from None
    return ray


def distributed_inference(  # noqa: PLR0913 - the documented call
    checkpoint: "GivenModel" = None,
    input_paths: Iterable[str | Path] = (),
    num_gpus: int | None = None,
    batch_size: int | None = None,
    *,
    output_dir: str | Path = "results",
    config: Config | dict[str, Any] | str | Path | None = None,
    gpus_per_actor: float = 1,
    cpus_per_actor: float = 1,
    resume: bool = False,
    progress: Listener = silent,
    base: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
) -> BatchResults:
    """Run over scans on the Ray cluster that this process has joined. Failures are reported in `failed`.

    Args:
        checkpoint: one model file or zip. It is sent to the machines. Default: as in `batch_inference`.
        input_paths: any iterable of paths that all machines see, or of URLs for fsspec (`s3://`, `gs://`).
        num_gpus: GPUs to use (default: all). On a cluster without GPUs: the largest number of actors.
        batch_size: overrides `inference.batch_size`.
        output_dir: a folder that all machines see. It must not be an input.
        config: a YAML file, a mapping or a `Config`. `inference.num_workers` is the number of scans that an actor
            reads and writes while it infers one.
        gpus_per_actor: below 1, several actors share a GPU.
        cpus_per_actor: cores that Ray reserves for each actor, and its number of threads.
        resume: skip scans whose outputs are complete, and come from the same content, model and settings. Each scan is
            fetched for the comparison.
        progress: is called with the events of `runs.progress`, except `windows`.
        base: a folder above all of `input_paths`. Results go into folders with the paths below it.
        shard: which part of how many the paths are, for the name of the table of all findings.

    Raises:
        BadConfig: Ray is not installed or not joined, or the configuration is wrong.
        BadCheckpoint: the model cannot be loaded.
        BadOutput: no machine can write to `output_dir`.
    """
    ray = _ray()
    if not ray.is_initialized():
        msg = "this process has joined no Ray cluster: call ray.init(address='auto') first"
        raise BadConfig(msg)
    settings = with_options(load_config(config), batch_size=batch_size)
    if isinstance(input_paths, str | bytes) or not isinstance(input_paths, Iterable):
        msg = f"input_paths must be a list of paths, not {words_for(input_paths)}"
        raise BadConfig(msg)
    target = path_of(output_dir, "output_dir", BadOutput)
    folder = os.path.abspath(target)  # noqa: PTH100 - keeps links, which may differ between machines
    opened = open_pipeline(checkpoint, settings, "cpu", folder).checkpoint
    model = opened.path
    if not opened.is_one_file:
        msg = f"{model} cannot be sent to other machines: give one detector, a file of PIVOT or a zip"
        raise BadConfig(msg)
    slots = 1 + settings.inference.num_workers
    size, gpus = demand(ray.cluster_resources(), settings.model.device, num_gpus, gpus_per_actor, cpus_per_actor)
    actors = ray.remote(RayWorker).options(
        num_gpus=gpus,
        num_cpus=cpus_per_actor,
        max_concurrency=slots,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": {"PYTHONPATH": str(PACKAGE.parent)}},  # for machines that see the same checkout
    )
    above = None if base is None else os.path.abspath(base)  # noqa: PTH100 - as above
    start = _starter(actors, model, (settings, "cuda" if gpus else "cpu", folder, resume, above))
    tally = _Tally(input_paths, progress, above)
    results = tally.run(start, size, slots)
    places = partial(place_of, output_dir=Path(folder), base=None if above is None else Path(above))
    write_batch_table(sorted(tally.done), settings, places, Path(folder), shard)
    return results


def _ray() -> ModuleType:
    # Under `uv run`, Ray makes each machine build an environment from the sent files, which are no project. Ray reads
    # this variable when it is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError:
        msg = f"inference on many machines needs Ray: {INSTALL}"
        raise BadConfig(msg) from None
    return ray


def demand(
    cluster: Mapping[str, float], device: str, num_gpus: int | None, gpus_per_actor: float, cpus_per_actor: float
) -> tuple[int, float]:
    """The number of actors for a cluster's resources, and the GPUs of each; 0 if they compute on CPUs."""
    gpus = 0.0 if device == "cpu" else cluster.get("GPU", 0.0)
    if gpus:
        return max(1, int((num_gpus or gpus) / gpus_per_actor)), gpus_per_actor
    room = max(1, int(cluster.get("CPU", 0.0) / cpus_per_actor))
    return min(num_gpus or room, room), 0.0


def _starter(actors: Any, model: Path, arguments: tuple[Any, ...]) -> Callable[[], tuple[Any, Any]]:  # noqa: ANN401 - Ray's
    """A function that starts an actor and the loading of its model. The model goes to each machine once."""
    content = _ray().put(model.read_bytes())

    def start() -> tuple[Any, Any]:
        actor = actors.remote(*arguments)
        return actor, actor.load.remote(model.name, content)

    return start


def _source(given: str) -> str:
    """A path or URL as the actors open it."""
    return given if "://" in given else os.path.abspath(given)  # noqa: PTH100 - as for the output folder


class _Tally:
    """Sends scans to the actors, and counts the results."""

    def __init__(self, paths: Iterable[str | Path], notify: Listener, base: str | None) -> None:
        self.paths: Iterable[str | Path] = [paths] if isinstance(paths, str | Path) else paths
        self.total = len(self.paths) if isinstance(self.paths, Sized) else None
        self.notify, self.base = notify, base
        self.done: list[Path] = []  # scans that are complete, as the actors open them
        self.begun = 0
        self.seconds = 0.0
        self.results = BatchResults(
            num_scans=0, total_detections=0, avg_time=0.0, failed={}, skipped=[], notes={}, passed_over={}
        )

    def run(self, start: Callable[[], tuple[Any, Any]], size: int, slots: int) -> BatchResults:
        """Do all scans with `size` actors."""
        from .ray_pool import Pool  # noqa: PLC0415 - imports Ray

        with closing(Pool(start, size, slots)) as pool:
            for given, event in pool.run(self._tasks(), self._start):
                self._count(given, event)
        if self.results["num_scans"]:
            self.results["avg_time"] = self.seconds / self.results["num_scans"]
        self.notify({"event": "summary", **self.results})
        return self.results

    def _tasks(self) -> Iterator[tuple[str, str]]:
        """Each path as given, and as the actors open it."""
        names: set[int] = set()
        for given in map(str, self.paths):
            source = _source(given)
            name = hash((None if self.base is None else os.path.dirname(source), scan_name(given)))  # noqa: PTH120 - URLs too
            if name in names:
                message = f"an earlier scan of this run is also called {scan_name(given)}: rename one of them"
                self._count(given, {"event": "failed", "error": "BadScan", "message": message})
            else:
                names.add(name)
                yield given, source

    def _start(self, given: str) -> None:
        self.begun += 1
        self.notify({"event": "start", "scan": given, "index": self.begun, "total": self.total})

    def _count(self, given: str, event: Event) -> None:
        match event:
            case {"event": "finished", "seconds": seconds, "detections": detections}:
                self.results["num_scans"] += 1
                self.results["total_detections"] += detections
                self.seconds += seconds
                self.results["notes"] |= {given: event["notes"]} if event["notes"] else {}
            case {"event": "failed", "message": message}:
                event = {**event, "message": f"{given}: {message}"}
                self.results["failed"][given] = event["message"]
            case _:
                self.results["skipped"].append(given)
        if event["event"] != "failed":
            self.done.append(Path(_source(given)))
        self.notify({**event, "scan": given})
