"""A pool of Ray actors that share the scans. It survives the loss of actors and machines.

- An actor is used once its model is loaded. If it dies, it is replaced as soon as the cluster has room.
- Each actor has a few scans at once: it reads and writes some while it infers another. At the end of the list it has
  one, so that no scan waits while an actor is idle.
- A failed scan is tried on another machine, if there is one. If an actor died, its scans are tried one at a time. This
  finds the scan that kills its actor (`ATTEMPTS` times).
- An actor whose error would recur with every scan (a full disk) gets no more scans. Without other actors, this error
  ends the run.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ..errors import PivotError
from .progress import Event

__all__ = ["ATTEMPTS", "Pool"]

log = logging.getLogger("pivot")
ATTEMPTS = 3  # for a scan, on any machine
PATIENCE = 60.0  # seconds without a result until a warning


@dataclass(eq=False)
class _Task:
    """A scan to be done."""

    given: str  # the path as the user wrote it
    source: str  # a URL, or an absolute path
    attempts: int = 0
    alone: bool = False  # must run alone, because an actor died with it
    tried: set[str] = field(default_factory=set)  # machines on which it failed


@dataclass(eq=False)
class _Member:
    """An actor. `node` is its machine, set when its model is loaded."""

    actor: Any
    node: str = ""
    load: list[_Task] = field(default_factory=list)  # its running scans


class Pool:
    """A pool of `size` actors with up to `slots` scans each. `start` starts an actor and the loading of its model."""

    def __init__(self, start: Callable[[], tuple[Any, Any]], size: int, slots: int) -> None:
        self.start, self.slots = start, slots
        self.members: list[_Member] = []  # actors that may get scans, now or once loaded
        self.started: list[Any] = []
        self.under_way: dict[Any, tuple[_Member, _Task | None]] = {}  # without a task: the model is being loaded
        self.waiting: deque[_Task] = deque()
        self.suspects: deque[_Task] = deque()
        self.error: PivotError | None = None
        for _ in range(size):
            self._add()

    def close(self) -> None:
        """End all actors, busy or not."""
        for actor in self.started:
            ray.kill(actor)

    def run(self, scans: Iterable[tuple[str, str]], begun: Callable[[str], None]) -> Iterator[tuple[str, Event]]:
        """Each scan's path with its last event, in the order in which they end.

        `scans` are pairs: the path as given, and the path for the actors. Only a few are taken in advance. `begun` is
        called at each scan's first attempt.

        Raises:
            PivotError: no actor can go on.
        """
        tasks = (_Task(*scan) for scan in scans)
        while self._assign_scans(tasks, begun):
            refs = list(self.under_way)
            done, _ = ray.wait(refs, num_returns=1, timeout=PATIENCE)
            if not done:
                self._log_waiting()
            for ref in done:
                yield from self._results(ref)

    def _add(self) -> None:
        actor, loading = self.start()
        member = _Member(actor)
        self.started.append(actor)
        self.members.append(member)
        self.under_way[loading] = member, None

    def _assign_scans(self, tasks: Iterator[_Task], begun: Callable[[str], None]) -> bool:
        """Give scans to the actors. Return whether any work is left."""
        ready = [member for member in self.members if member.node]
        most = self.slots * max(1, len(ready))
        self.waiting.extend(islice(tasks, max(0, most - len(self.waiting))))
        slots = self.slots if len(self.waiting) >= most else 1
        for slot in range(1, slots + 1):
            for member in ready:
                if task := self._next(member, slot):
                    self._send(member, task, begun)
        busy = any(task for _, task in self.under_way.values())
        if not (self.members or busy) and (self.waiting or self.suspects):
            raise self.error or PivotError("no actor could be started on the Ray cluster")
        return busy or bool(self.waiting or self.suspects)

    def _next(self, member: _Member, slots: int) -> _Task | None:
        """The next scan for an actor with up to `slots` scans at once, or None."""
        if self.suspects and member is next(one for one in self.members if one.node):
            return None if member.load else self.suspects.popleft()
        if len(member.load) >= slots or any(task.alone for task in member.load):
            return None
        for task in self.waiting:
            if member.node not in task.tried or task.tried.issuperset(one.node for one in self.members if one.node):
                self.waiting.remove(task)
                return task
        return None

    def _send(self, member: _Member, task: _Task, begun: Callable[[str], None]) -> None:
        if not task.attempts:
            begun(task.given)
        task.attempts += 1
        member.load.append(task)
        self.under_way[member.actor.infer.remote(task.source)] = member, task

    def _results(self, ref: Any) -> Iterator[tuple[str, Event]]:  # noqa: ANN401 - Ray's references have no common type
        """The event of a scan whose actor has returned or died."""
        member, task = self.under_way.pop(ref)
        if task:
            member.load.remove(task)
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            self._retire(member, task, error.cause)
        except RayError as error:
            yield from self._replace_actor(member, task, error)
        else:
            if task is None:
                member.node = answer
            elif answer["event"] != "failed" or task.attempts == ATTEMPTS:
                yield task.given, answer
            else:
                task.tried.add(member.node)
                self.waiting.appendleft(task)

    def _retire(self, member: _Member, task: _Task | None, cause: Exception) -> None:
        """Send no more scans to the actor, because its error would recur with every scan."""
        self.error = cause if isinstance(cause, PivotError) else PivotError(f"a Ray actor failed: {cause!r}")
        log.warning("an actor on machine %s is given no more scans: %s", member.node or "(unknown)", self.error)
        if member in self.members:
            self.members.remove(member)
        if task:
            task.attempts -= 1  # it was not the scan's fault
            task.tried.add(member.node)
            self.waiting.appendleft(task)

    def _replace_actor(self, member: _Member, task: _Task | None, error: RayError) -> Iterator[tuple[str, Event]]:
        """Replace an actor that died after its start. Try each of its scans again, alone."""
        if member in self.members:
            self.members.remove(member)
            ray.kill(member.actor)  # it may only be out of reach
            # an earlier error, such as a full disk, is more informative
            self.error = self.error or PivotError(f"an actor died: {_first_line(error)}")
            log.warning("an actor died on machine %s; its scans are tried again", member.node or "(unknown)")
            if member.node:
                self._add()
        if task and task.attempts == ATTEMPTS:
            message = f"the process that worked on it died {ATTEMPTS} times; is there enough memory for it?"
            yield task.given, {"event": "failed", "error": "PivotError", "message": message}
        elif task:
            task.alone = True
            self.suspects.append(task)

    def _log_waiting(self) -> None:
        ready = sum(bool(member.node) for member in self.members)
        log.warning("no scan ended in %d s; %d of %d actors are ready", PATIENCE, ready, len(self.members))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
