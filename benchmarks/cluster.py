"""A Ray cluster of several nodes on one machine, for tests and benchmarks. Each node has its own raylet."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["STORE_BYTES", "add_node", "local_cluster"]

STORE_BYTES = 80 * 2**20  # the smallest that Ray accepts; a CT volume does not fit
# Without a port, a node gives up if its agents take 15 s to start, as on a busy machine.
AGENTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")

# Ray reads these when it is imported.
os.environ.setdefault("RAY_worker_niceness", "0")  # actors yield to every other process otherwise
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run` builds an environment for each node otherwise


@contextmanager
def local_cluster(nodes: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster`: a head without cores, and `nodes` nodes of one core. It is shut down at the end.

    `ray.init(address="auto")` joins it.
    """
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        add_node(cluster, num_cpus=0, include_dashboard=False)
        for _ in range(nodes):
            add_node(cluster)
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def add_node(cluster: Any, **options: Any) -> Any:  # noqa: ANN401 - Ray's, without types
    """Add a node with one core and a small object store. `options` are those of `ray start`."""
    return cluster.add_node(**{"num_cpus": 1, "object_store_memory": STORE_BYTES, **_free_ports(), **options})


def _free_ports() -> dict[str, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in AGENTS]
        for one in sockets:
            one.bind(("", 0))
        return dict(zip(AGENTS, (one.getsockname()[1] for one in sockets), strict=True))
