"""Sends results to the PACS. Keeps them on disk, over restarts, until each destination has received them.

outbox/<run>/*.dcm         the objects of a run
outbox/<run>/state.json    what each destination still lacks, its failed attempts, and the time of the next
"""

import json
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from ..errors import BadOutput, PivotError
from ..files import whole_file, whole_files
from .audit import Audit
from .sending import PeerGone, check_peer, send
from .settings import PacsConfig, Retry

__all__ = ["Outbox", "wait_before"]

STATE = "state.json"


class _Way(TypedDict):
    """The state of one destination."""

    files: list[str]  # files still to be sent
    attempts: int  # failed attempts since it last accepted a file
    next: float  # next attempt, seconds since the epoch


class _State(TypedDict):
    study: str
    since: float
    ways: dict[str, _Way]  # by the destination's name


def wait_before(attempt: int, retry: Retry) -> float:
    """Seconds to wait after each failed attempt: doubled each time, up to a limit."""
    return float(min(retry.first_seconds * 2.0 ** min(attempt - 1, 64), retry.most_seconds))


class Outbox:
    """The results below `folder`, for the destinations of `config`.

    Raises:
        BadConfig: the certificates, the login or the URL of a destination are unusable.
    """

    def __init__(self, folder: Path, config: PacsConfig, audit: Audit) -> None:
        for peer in config.destinations:
            check_peer(peer)
        self.folder, self.config, self.audit = folder, config, audit
        self.stopping = threading.Event()  # set it to end `send_due` after the current results

    def put(self, study: str, files: Sequence[Path], run: str) -> None:
        """Move the objects of a run here under the run's name: all, or none on an error. A repeated run is ignored."""
        if (self.folder / run / STATE).exists():
            return
        names = [file.name for file in files]
        ways = {peer.name: _Way(files=names, attempts=0, next=0.0) for peer in self.config.destinations}
        with whole_files(self.folder / run, last=STATE) as draft:
            for file in files:
                shutil.copyfile(file, draft / file.name)
            state = _State(study=study, since=time.time(), ways=ways)
            (draft / STATE).write_text(json.dumps(state), encoding="utf-8")

    def send_due(self) -> None:
        """Try each due destination once. Remove results that all have received or that were tried too long."""
        for place in sorted(self.folder.glob(f"*/{STATE}")):
            if self.stopping.is_set():
                return
            try:
                self._send_run(place.parent, json.loads(place.read_text(encoding="utf-8")))
            except (ValueError, TypeError, KeyError, AttributeError):
                place.replace(place.with_suffix(".damaged"))
                reason = "the file that tells what is to be sent is damaged: send its objects by hand"
                self.audit.write("results stay", run=place.parent.name, reason=reason)
            except (OSError, BadOutput):
                continue  # a full disk: try again later, and continue with the others

    def _send_run(self, run: Path, state: _State) -> None:
        for name, way in state["ways"].items():
            if way["files"] and way["next"] <= time.time():
                self._try(run, state, name)
        if not any(way["files"] for way in state["ways"].values()):
            shutil.rmtree(run)

    def _try(self, run: Path, state: _State, name: str) -> None:
        way, about = state["ways"][name], {"study": state["study"], "destination": name}
        peer = next((peer for peer in self.config.destinations if peer.name == name), None)
        try:
            if peer is None:
                msg = "the configuration has no such destination any more"
                raise PeerGone(msg)  # noqa: TRY301 - tried again like an unreachable one
            for file, refusal in send([run / name for name in way["files"]], peer, self.config.listen.ae_title):
                way["files"], way["attempts"] = [name for name in way["files"] if name != file.name], 0
                outcome = {"reason": refusal} if refusal else {}
                self.audit.write("result refused" if refusal else "result sent", **about, object=file.name, **outcome)
        except (PeerGone, PivotError) as error:
            self._later(state, way, about, str(error))
        self._save(run, state)

    def _later(self, state: _State, way: _Way, about: dict[str, str], reason: str) -> None:
        retry = self.config.retry
        way["attempts"] += 1
        wait = wait_before(way["attempts"], retry)
        if time.time() + wait - state["since"] > retry.give_up_after_seconds:
            lost, way["files"] = way["files"], []
            self.audit.write("results given up", **about, reason=reason, objects=lost)
        else:
            way["next"] = time.time() + wait
            self.audit.write("sending failed", **about, reason=reason, attempt=way["attempts"], again_in_seconds=wait)

    def _save(self, run: Path, state: _State) -> None:
        with whole_file(run / STATE) as draft:
            draft.write_text(json.dumps(state), encoding="utf-8")
