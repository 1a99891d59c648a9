"""A pool of Ray actors that scans are dealt out to, whatever becomes of actors and machines meanwhile.

- An actor is used once its model is loaded. One that dies is replaced, as soon as the cluster has room.
- Each actor has a few scans under way, so that it reads and writes beside its inference; at the end of
  the list one, so that none waits where others are idle.
- A scan that fails is tried on another machine, where there is one. Scans whose actor died are tried one
  at a time, so that the one that kills it (`ATTEMPTS` times) is known.
- An actor that meets what would fail with every scan (a full disk) gets no more scans. When there are no
  others, that error ends the run.
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
ATTEMPTS = 3  # for a scan: twice after a failure or a death, wherever it happened
PATIENCE = 60.0  # seconds without any answer, after which the log tells what is waited for


@dataclass(eq=False)
class _Task:
    """A scan to be done."""

    given: str  # the path as the user wrote it
    source: str  # a URL, or an absolute path
    attempts: int = 0
    alone: bool = False  # because an actor died that worked on it
    tried: set[str] = field(default_factory=set)  # machines on which it failed


@dataclass(eq=False)
class _Member:
    """An actor; `node` is its machine, known once its model is loaded."""

    actor: Any
    node: str = ""
    load: list[_Task] = field(default_factory=list)  # under way


class Pool:
    """Actors that `start` starts, each with its `load` called, and with up to `slots` scans under way."""

    def __init__(self, start: Callable[[], tuple[Any, Any]], size: int, slots: int) -> None:
        self.start, self.slots = start, slots
        self.members: list[_Member] = []  # to which scans may be given, now or once loaded
        self.started: list[Any] = []
        self.under_way: dict[Any, tuple[_Member, _Task | None]] = {}  # no task: the model is loaded
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
        """Each scan with its last event, in the order in which they end; `begun` hears of each first attempt.

        `scans` are pairs of the path as it was given and as the actors find it; few are taken in advance.

        Raises:
            PivotError: what keeps every actor from going on.
        """
        tasks = (_Task(*scan) for scan in scans)
        while self._assign_scans(tasks, begun):
            refs = list(self.under_way)
            done, _ = ray.wait(refs, num_returns=1, timeout=PATIENCE)
            if not done:
                self._log_waiting()
            for ref in done:
                yield from self._settle(ref)

    def _add(self) -> None:
        actor, loading = self.start()
        member = _Member(actor)
        self.started.append(actor)
        self.members.append(member)
        self.under_way[loading] = member, None

    def _assign_scans(self, tasks: Iterator[_Task], begun: Callable[[str], None]) -> bool:
        """Give scans to the actors; returns whether there is anything left to wait for."""
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
        """The next scan for an actor with up to `slots` scans at once; None if there is none."""
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

    def _settle(self, ref: Any) -> Iterator[tuple[str, Event]]:  # noqa: ANN401 - Ray's references have no common type
        """The event of a scan whose actor has answered or died."""
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
        """Send no more scans to the actor: its error would recur with every scan."""
        self.error = cause if isinstance(cause, PivotError) else PivotError(f"a Ray actor failed: {cause!r}")
        log.warning("an actor on machine %s is given no more scans: %s", member.node or "(unknown)", self.error)
        if member in self.members:
            self.members.remove(member)
        if task:
            task.attempts -= 1  # it was not the scan's fault
            task.tried.add(member.node)
            self.waiting.appendleft(task)

    def _replace_actor(self, member: _Member, task: _Task | None, error: RayError) -> Iterator[tuple[str, Event]]:
        """Replace an actor that died after it had started; try each of its scans again, alone."""
        if member in self.members:
            self.members.remove(member)
            ray.kill(member.actor)  # where it was only out of reach
            # a full disk that was met before says more
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
