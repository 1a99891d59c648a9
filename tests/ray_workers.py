"""Ray actors that simulate machine failures; each runs in its own process."""

import os
import time
from typing import Any

import ray

from src.runs import outputs
from src.runs.progress import Event
from src.runs.ray_worker import RayWorker

__all__ = ["Full", "FullOnOne", "FullOrDead", "Poisoned", "Recording", "Slow", "alive_machines"]


class Recording(RayWorker):
    """Records which machine processed a scan."""

    def infer(self, source: str) -> Event:
        return {**super().infer(source), "machine": ray.get_runtime_context().get_node_id()}


class Slow(Recording):
    """Takes a second longer on one machine; all start at the same time."""

    def load(self, name: str, content: bytes) -> str:
        node = super().load(name, content)
        (self.folder.parent / f"ready-{os.getpid()}").touch()
        while len(list(self.folder.parent.glob("ready-*"))) < len(alive_machines()):
            time.sleep(0.1)
        return node

    def infer(self, source: str) -> Event:
        with self.turns.infer:
            time.sleep(_is_first_machine())
        return super().infer(source)


class Poisoned(RayWorker):
    """Dies on a scan, as after a crash of a library or without memory."""

    def infer(self, source: str) -> Event:
        if "poison" in source:
            os._exit(1)
        return super().infer(source)


class Full(RayWorker):
    """Runs out of disk space at the last file of a scan."""

    def load(self, name: str, content: bytes) -> str:
        _fill_the_disk()
        return super().load(name, content)


class FullOnOne(Recording):
    """Runs out of disk space on one machine."""

    def load(self, name: str, content: bytes) -> str:
        if _is_first_machine():
            _fill_the_disk()
        return super().load(name, content)


class FullOrDead(RayWorker):
    """Runs out of disk space on one machine and dies on the other some time later."""

    def load(self, name: str, content: bytes) -> str:
        met = self.folder.parent / "met"
        if _is_first_machine():
            _fill_the_disk()
            node = super().load(name, content)
            met.touch()
            return node
        while not met.exists():
            time.sleep(0.1)
        time.sleep(3)
        os._exit(1)


def _fill_the_disk() -> None:
    setattr(outputs, "save_json", _full)  # noqa: B010 - this process ends with its actor


def _full(*_: Any) -> None:  # noqa: ANN401
    raise OSError(28, "No space left on device")


def _is_first_machine() -> bool:
    return bool(ray.get_runtime_context().get_node_id() == min(alive_machines()))


def alive_machines() -> list[str]:
    """The machines that have cores and are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["NodeID"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
