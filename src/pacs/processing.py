"""Processes a received study: chooses the series, skips repeats, runs it, and passes the results to the outbox.

A study is refused, and removed, only for its own faults. If the machine or the settings are at fault, that study waits
and the others continue. A study whose runs repeatedly do not finish is set aside and kept.
"""

import errno
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ..errors import BadCheckpoint, BadConfig, BadOutput, BadScan, PivotError, lacking
from ..processes import helpers, limit_memory
from .audit import Audit, unforeseen
from .completeness import arrivals, has_arrived, shortfalls
from .outbox import Outbox
from .series_choice import choose_series
from .settings import Inference, PacsConfig
from .spool import Spool, series_in

__all__ = ["Outcome", "Processor"]

MOST_FAILED = 3  # runs of a study that ended their process, or failed for lack of memory or by the settings
MOST_CUT = 10  # runs of a study during which the listener ended, usually for another reason
LONGEST_PAUSE = 60.0  # seconds between attempts at a waiting study
# Failures that are not the fault of the data sent: lack of resources, or the settings.
FAILURES = (BrokenProcessPool, MemoryError, BadCheckpoint, BadConfig, BadOutput)


class Outcome(NamedTuple):
    """The result for a series. Defined here, so that the listener imports none of the worker's modules."""

    nodules: int
    objects: list[Path]


class _Pause(NamedTuple):
    """When to try a study again."""

    until: float  # monotonic seconds
    seconds: float  # the previous pause


NO_PAUSE = _Pause(0.0, 0.5)


class Processor:
    """Runs one series at a time in a separate process. If that process dies, the listener continues.

    Raises:
        BadConfig, BadCheckpoint: the model cannot be loaded.
    """

    def __init__(self, config: PacsConfig, spool: Spool, outbox: Outbox, audit: Audit) -> None:
        self.config, self.spool, self.outbox, self.audit = config, spool, outbox, audit
        self.stopping = threading.Event()  # set it to end `work` after the current run
        self._pauses: dict[str, _Pause] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._ready()

    def close(self) -> None:
        """End the process after the current run."""
        if self._pool:
            self._pool.shutdown()

    def work(self) -> None:
        """Run the studies that have arrived, then interrupted ones; none while the audit trail is unwritable."""
        if not self.audit.works():
            return
        for study in self.spool.waiting():
            self._in_turn(study, self._if_arrived)
        for study in self.spool.taken():
            self._in_turn(study, self._study)

    def _in_turn(self, study: Path, action: Callable[[Path], None]) -> None:
        """Run a task, if it is due. On any error the study is kept, and the others continue."""
        pause = self._pauses.get(study.name, NO_PAUSE)
        if self.stopping.is_set() or time.monotonic() < pause.until:
            return
        try:
            action(study)
        except Exception as error:  # noqa: BLE001 - the other studies continue
            if pause is NO_PAUSE:
                self.audit.write("study waits", study=study.name, reason=f"{_reason(error)}: kept, and tried again")
            seconds = min(2 * pause.seconds, LONGEST_PAUSE)
            self._pauses[study.name] = _Pause(time.monotonic() + seconds, seconds)
        else:
            self._pauses.pop(study.name, None)

    def _if_arrived(self, study: Path) -> None:
        if has_arrived(arrivals(study), self.config.completeness, time.time()):
            self._study(self.spool.take(study.name))

    def _study(self, study: Path) -> None:
        """Run a taken study, refuse it, or set it aside. After an error it is tried again."""
        cut, failed = self.spool.attempts(study)
        if failed >= MOST_FAILED:
            self._set_aside(
                study, f"{failed} runs failed: it takes more time or memory than there is, or ends its process"
            )
            return
        if cut >= MOST_CUT:
            self._set_aside(study, f"the listener ended in {cut} of its runs: stopped, killed, or out of memory")
            return
        self._ready()
        self.spool.begin(study)
        try:
            self._series(study, self._chosen(study))
        except Exception as error:
            lack = lacking(error)
            failure = isinstance(lack or error, FAILURES)
            if lack or failure:
                self.spool.stop(study, failed=failure)
                raise
            self._refuse(study, str(error) if isinstance(error, PivotError) else unforeseen(error))
        self.spool.finish(study)

    def _refuse(self, study: Path, reason: str) -> None:
        self.audit.write("study refused", study=study.name, reason=reason.replace(f"{study}/", ""))

    def _set_aside(self, study: Path, reason: str) -> None:
        place = self.spool.set_aside(study)
        self.audit.write("study set aside", study=study.name, place=f"{place.parent.name}/{place.name}", reason=reason)

    def _chosen(self, study: Path) -> Path:
        """The best series of a study. Raises `BadScan` if there is none."""
        short = self._short(study)
        whole = [folder for folder in series_in(study) if folder.name not in short]
        chosen, decisions = choose_series(whole, self.config.series)
        decisions += [{"series": uid, "refused": reason} for uid, reason in short.items()]
        self.audit.write("series choice", study=study.name, series=decisions)
        if chosen is None:
            msg = f"no series fits the rules: {'; '.join(sorted({one['refused'] for one in decisions}))}"
            raise BadScan(msg)
        return chosen

    def _short(self, study: Path) -> dict[str, str]:
        """The incomplete series, and why. Their instances are recorded, in case the rest comes later."""
        short = shortfalls(arrivals(study))
        for series in series_in(study):
            if missing := self.spool.missing(series):
                short[series.name] = f"{missing} of its instances came earlier, and were removed: send all of it again"
            if series.name in short:
                self.spool.record_short(series)
        return short

    def _series(self, study: Path, series: Path) -> None:
        about = {"study": study.name, "series": series.name}
        if self.spool.was_run(series):
            self.audit.write("duplicate", **about, reason="all its instances were run before: not run again")
            return
        self.audit.write("run started", **about)
        start = time.perf_counter()
        with TemporaryDirectory(prefix="pivot-") as folder:
            outcome = self._run(study, series, Path(folder))
            self.outbox.put(study.name, outcome.objects, self.spool.run_name(series))
        self.spool.record_run(series)
        seconds = round(time.perf_counter() - start, 1)
        objects = [path.name for path in outcome.objects]
        self.audit.write("run finished", **about, nodules=outcome.nodules, seconds=seconds, objects=objects)

    def _run(self, study: Path, series: Path, folder: Path) -> Outcome:
        start, most = time.monotonic(), self.config.inference.time_limit
        try:
            return self._ready().submit(_run, series, folder, self.config).result()
        except BrokenProcessPool:
            self._pool = None
            long = time.monotonic() - start >= most
            reason = f"it took longer than inference.time_limit ({most} s)" if long else "killed, or out of memory"
            self.audit.write("worker died", study=study.name, reason=reason)
            raise

    def _ready(self) -> ProcessPoolExecutor:
        """The process with its loaded model, so that a study is charged only for its own run.

        Raises:
            BadConfig, BadCheckpoint: the model cannot be loaded.
            OSError: the process cannot be started.
        """
        for _ in range(2):  # it may have died since the last run
            self._pool = self._pool or helpers(1)
            try:
                self._pool.submit(_load, self.config.inference).result()
            except BrokenProcessPool:
                self._pool = None
            else:
                return self._pool
        raise OSError(errno.EAGAIN, "its process ends as it starts")


def _reason(error: Exception) -> str:
    """Why a study waits."""
    lack = lacking(error)
    if isinstance(lack, OSError):
        return f"the machine lacks what it takes ({lack.strerror})"
    if isinstance(lack, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, BrokenProcessPool):
        return "the process that ran it died"
    return str(error) if isinstance(error, PivotError) else unforeseen(error)


def _load(settings: Inference) -> None:
    from .worker import open_pipeline  # noqa: PLC0415 - only the worker's process needs torch

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager sends it to all processes of the service
    limit_memory(settings.memory)
    open_pipeline(settings)


def _run(series: Path, folder: Path, config: PacsConfig) -> Outcome:
    from .worker import run_series  # noqa: PLC0415 - as above

    if hasattr(signal, "setitimer"):  # this signal ends the process even in code that never returns
        signal.setitimer(signal.ITIMER_REAL, config.inference.time_limit)
    try:
        return run_series(series, folder, config)
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
