"""The service's workers as actors of a Ray cluster, on any of its machines.

With `PIVOT_RAY=auto` a server starts them. With `PIVOT_DEVICES=none` you start them yourself:
`python -m src.api.ray_workers --address auto`. Actors take jobs from the database, and use the data folder.
"""

import argparse
import logging
import os
import sys
import threading
from types import ModuleType
from typing import Any

from ..errors import BadConfig, command
from ..logs import add_log_options
from ..processes import stop_on_signal
from ..runs.distributed import connect, demand
from .settings import Settings
from .worker import Worker, prepare, start_log

__all__ = ["RayWorkers", "main"]

log = logging.getLogger("pivot")
STOP_SECONDS = 10.0  # for the actors to give their jobs back


class _Actor:
    """A worker in a Ray process. Ray calls `stop` in another thread than `run`."""

    def __init__(self, settings: Settings, device: str) -> None:
        start_log(settings.log)
        self.worker = Worker(settings, device)

    def run(self) -> None:
        self.worker.run()

    def stop(self) -> None:
        self.worker.stopping.set()


class RayWorkers:
    """An actor for each GPU of the joined cluster, or for each core if it has no GPU.

    If an actor dies, Ray restarts it, on another machine if necessary. Its job goes back into the queue when the lease
    has expired.

    Args:
        ray: the module that `connect` returns.
        settings: of the service. All machines must see `data` and `checkpoint` under the same names.
        most: the largest number of actors.

    Raises:
        BadConfig: the cluster has several machines, but the queue is a file on this one.
    """

    def __init__(self, ray: ModuleType, settings: Settings, most: int | None = None) -> None:
        machines = {node["NodeManagerAddress"] for node in ray.nodes()}
        if not settings.database_url and len(machines) > 1:
            msg = "workers on several machines must share a PostgreSQL database: set PIVOT_DATABASE_URL"
            raise BadConfig(msg)
        count, gpus = demand(ray.cluster_resources(), "auto", most, gpus_per_actor=1, cpus_per_actor=1)
        remote = ray.remote(_Actor).options(
            num_gpus=gpus, num_cpus=1, max_concurrency=2, max_restarts=-1, max_task_retries=-1
        )
        self.ray = ray
        self.actors: list[Any] = [remote.remote(settings, "cuda" if gpus else "cpu") for _ in range(count)]
        self.runs = [actor.run.remote() for actor in self.actors]
        log.info("%d workers on the Ray cluster", count)

    def stop(self) -> None:
        """Make the actors give their jobs back, and end them."""
        for actor in self.actors:
            actor.stop.remote()
        self.ray.wait(self.runs, num_returns=len(self.runs), timeout=STOP_SECONDS)
        for actor in self.actors:
            self.ray.kill(actor)


@command
def main(arguments: list[str] | None = None) -> None:
    """Keep workers on the cluster until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m src.api.ray_workers", description="process the service's jobs on Ray"
    )
    parser.add_argument("--address", default="auto", help="address of the Ray cluster (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="most workers (default: one for each GPU, else each core)")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    add_log_options(parser)
    options = parser.parse_args(arguments)
    settings = prepare(options.log)
    workers = RayWorkers(connect(options.address), settings, options.workers)
    stopping = threading.Event()
    stop_on_signal(stopping)
    while not stopping.wait(1) and options.parent in (None, os.getppid()):
        pass
    workers.stop()


if __name__ == "__main__":
    sys.exit(main())
