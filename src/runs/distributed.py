"""Many scans on many machines, with Ray: paths go out to actors, which write the results; counts come back.

No volume passes through Ray. Memory of this process does not grow with the number of scans, but for a hash of
each name (two scans of one name would overwrite each other), and the paths that failed or were skipped.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import Config, load_config
from ..data.loader import scan_name
from ..errors import BadConfig
from .batch import BatchResults, open_pipeline, with_options
from .progress import Event, Listener, silent
from .ray_worker import Worker

__all__ = ["connect", "demand", "distributed_inference"]

PACKAGE = Path(__file__).resolve().parents[1]
# What is left out of a checkout: all but what the actors need, and but ".", by which Ray means the checkout itself.
NEEDED = (PACKAGE.name, "calibration", "checkpoints")
LEFT_OUT = ["/??*", *(f"!/{name}{inside}" for name in NEEDED for inside in ("", "/**"))]
INSTALL = "pip install 'pivot-ct[ray]', or in a checkout: uv sync --extra ray"


def connect(address: str | None = "auto") -> ModuleType:
    """Join a Ray cluster; `None` starts one on this machine. A checkout's code is sent to the other machines.

    Returns the module `ray`.

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
    checkpoint: str | Path | None = None,
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
) -> BatchResults:
    """Run over scans on the Ray cluster that this process has joined; what fails is reported in `failed`.

    Args:
        checkpoint: the model file, which is sent to the machines; by default as in `batch_inference`.
        input_paths: paths that all machines see, or URLs that fsspec opens (`s3://`, `gs://`); any iterable.
        num_gpus: GPUs to use, by default all; on a cluster without any, the most actors to run on CPUs.
        batch_size: overrides `inference.batch_size`.
        output_dir: a folder that all machines see, and that is not an input.
        config: YAML file, mapping or `Config`. `inference.num_workers` is the number of scans that an actor
            reads and writes beside the one it infers.
        gpus_per_actor: below 1, several actors share a GPU.
        cpus_per_actor: cores that Ray keeps for each, and threads that it computes with.
        resume: leave out scans whose outputs are complete and were made of the same content with the same model and
            settings; each is fetched to compare.
        progress: is called with the events that `progress` describes, but for `windows`.
        base: a folder above all of `input_paths`; their results go into folders of the same names as theirs.

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
    folder = os.path.abspath(output_dir)  # noqa: PTH100 - with the links, which may differ between machines
    model = open_pipeline(checkpoint, settings, "cpu", folder).checkpoint.path
    slots = 1 + settings.inference.num_workers
    size, gpus = demand(ray.cluster_resources(), settings.model.device, num_gpus, gpus_per_actor, cpus_per_actor)
    actors = ray.remote(Worker).options(
        num_gpus=gpus,
        num_cpus=cpus_per_actor,
        max_concurrency=slots,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": {"PYTHONPATH": str(PACKAGE.parent)}},  # for machines that see the same checkout
    )
    above = None if base is None else os.path.abspath(base)  # noqa: PTH100 - as above
    start = _starter(actors, model, (settings, "cuda" if gpus else "cpu", folder, resume, above))
    return _Tally(input_paths, progress, above).over(start, size, slots)


def _ray() -> ModuleType:
    # Under `uv run`, Ray has each machine build an environment from the files that are sent, which are no project.
    # It reads this when it is imported.
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
    """How many actors to start on a cluster that has this, and the GPUs for each; 0 where they compute on CPUs."""
    gpus = 0.0 if device == "cpu" else cluster.get("GPU", 0.0)
    if gpus:
        return max(1, int((num_gpus or gpus) / gpus_per_actor)), gpus_per_actor
    room = max(1, int(cluster.get("CPU", 0.0) / cpus_per_actor))
    return min(num_gpus or room, room), 0.0


def _starter(actors: Any, model: Path, arguments: tuple[Any, ...]) -> Callable[[], tuple[Any, Any]]:  # noqa: ANN401 - Ray's
    """A function that starts one more actor and the loading of its model, whose file goes to each machine once."""
    content = _ray().put(model.read_bytes())

    def start() -> tuple[Any, Any]:
        actor = actors.remote(*arguments)
        return actor, actor.load.remote(model.name, content)

    return start


class _Tally:
    """Sends scans to the actors, and keeps count of the results."""

    def __init__(self, paths: Iterable[str | Path], tell: Listener, base: str | None) -> None:
        self.paths: Iterable[str | Path] = [paths] if isinstance(paths, str | Path) else paths
        self.total = len(self.paths) if isinstance(self.paths, Sized) else None
        self.tell, self.base = tell, base
        self.begun = 0
        self.seconds = 0.0
        self.results = BatchResults(
            num_scans=0, total_detections=0, avg_time=0.0, failed={}, skipped=[], notes={}, passed_over={}
        )

    def over(self, start: Callable[[], tuple[Any, Any]], size: int, slots: int) -> BatchResults:
        """Do all scans with `size` actors."""
        from .ray_pool import Pool  # noqa: PLC0415 - imports Ray

        with closing(Pool(start, size, slots)) as pool:
            for given, event in pool.run(self._tasks(), self._start):
                self._count(given, event)
        if self.results["num_scans"]:
            self.results["avg_time"] = self.seconds / self.results["num_scans"]
        self.tell({"event": "summary", **self.results})
        return self.results

    def _tasks(self) -> Iterator[tuple[str, str]]:
        """Each path as the user gave it, and as the actors open it."""
        names: set[int] = set()
        for given in map(str, self.paths):
            source = given if "://" in given else os.path.abspath(given)  # noqa: PTH100 - as for the output folder
            name = hash((None if self.base is None else os.path.dirname(source), scan_name(given)))  # noqa: PTH120 - URLs too
            if name in names:
                message = f"an earlier scan of this run is called {scan_name(given)} too: rename one of them"
                self._count(given, {"event": "failed", "error": "BadScan", "message": message})
            else:
                names.add(name)
                yield given, source

    def _start(self, given: str) -> None:
        self.begun += 1
        self.tell({"event": "start", "scan": given, "index": self.begun, "total": self.total})

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
        self.tell({**event, "scan": given})
