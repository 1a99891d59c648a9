"""From a study that has arrived to results on their way: which series, whether it was run before, the run."""

import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BadScan, PivotError, is_out_of_resources
from ..processes import helpers
from .audit import Audit, unforeseen
from .completeness import arrivals, has_arrived, shortfalls
from .outbox import Outbox
from .series_choice import choose_series
from .settings import Inference, PacsConfig
from .spool import Spool

if TYPE_CHECKING:
    from .worker import Outcome

__all__ = ["Processor"]

MOST_ATTEMPTS = 3  # at a study on which the worker dies
LONGEST_PAUSE = 60.0  # seconds between two tries while the machine lacks disk or file handles


class _Pause(NamedTuple):
    """When a study is tried again."""

    until: float  # monotonic seconds
    seconds: float  # the pause before


NO_PAUSE = _Pause(0.0, 0.5)


class Processor:
    """Runs one series at a time in a process of its own, so that its end does not end the listener.

    Raises:
        BadConfig, BadCheckpoint: the model cannot be loaded.
    """

    def __init__(self, config: PacsConfig, spool: Spool, outbox: Outbox, audit: Audit) -> None:
        self.config, self.spool, self.outbox, self.audit = config, spool, outbox, audit
        self._pauses: dict[str, _Pause] = {}
        self._pool = helpers(1)
        self._pool.submit(_load, config.inference).result()

    def close(self) -> None:
        """End the process, after the run at hand."""
        self._pool.shutdown()

    def work(self) -> None:
        """Run the studies that were cut short, and those that have arrived; none that could not be audited."""
        if not self.audit.works():
            return
        for study in self.spool.taken():
            self._in_turn(study, self._study)
        for study in self.spool.waiting():
            self._in_turn(study, self._if_arrived)

    def _in_turn(self, study: Path, action: Callable[[Path], None]) -> None:
        """Do it, unless its time has not come; where this machine lacks what it takes, keep the study and wait.

        Whatever happens to one study, the others go on.
        """
        pause = self._pauses.get(study.name, NO_PAUSE)
        if time.monotonic() < pause.until:
            return
        try:
            action(study)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other studies go on
            what = unforeseen(error)
            if is_out_of_resources(error):
                what = f"the machine lacks what it takes ({_lacking(error)})"
                self.spool.forgive(study.name)
            reason = f"{what}: the study is kept, and tried again"
            if pause is NO_PAUSE:
                self.audit.write("study waits", study=study.name, reason=reason)
            seconds = min(2 * pause.seconds, LONGEST_PAUSE)
            self._pauses[study.name] = _Pause(time.monotonic() + seconds, seconds)
        else:
            self._pauses.pop(study.name, None)

    def _if_arrived(self, study: Path) -> None:
        if has_arrived(arrivals(study), self.config.completeness, time.time()):
            self._study(self.spool.take(study.name))

    def _study(self, study: Path) -> None:
        """Run a taken study, or refuse it; raises what shows that the machine lacks disk or file handles for either."""
        try:
            if self.spool.attempt(study) > MOST_ATTEMPTS:
                msg = f"the run was cut short {MOST_ATTEMPTS} times (stopped, killed, or out of memory)"
                raise PivotError(msg)  # noqa: TRY301 - told like all that goes wrong
            self._series(study, self._chosen(study))
        except BrokenProcessPool:
            self.audit.write("worker died", study=study.name)
            self._pool = helpers(1)
            return  # and the study is tried again
        except Exception as error:
            if is_out_of_resources(error):
                raise
            self._refuse(study, str(error) if isinstance(error, PivotError) else unforeseen(error))
        self.spool.finish(study)

    def _refuse(self, study: Path, reason: str) -> None:
        self.audit.write("study refused", study=study.name, reason=reason.replace(f"{study}/", ""))

    def _chosen(self, study: Path) -> Path:
        """The best series of a study; raises `BadScan` where there is none."""
        short = shortfalls(arrivals(study))
        whole = [folder for folder in sorted(study.iterdir()) if folder.is_dir() and folder.name not in short]
        chosen, said = choose_series(whole, self.config.series)
        said += [{"series": uid, "refused": reason} for uid, reason in short.items()]
        self.audit.write("series choice", study=study.name, series=said)
        if chosen is None:
            msg = f"no series fits the rules: {'; '.join(sorted({one['refused'] for one in said}))}"
            raise BadScan(msg)
        return chosen

    def _series(self, study: Path, series: Path) -> None:
        about = {"study": study.name, "series": series.name}
        if self.spool.was_run(series):
            self.audit.write("duplicate", **about, reason="all its instances were run before: not run again")
            return
        self.audit.write("run started", **about)
        start = time.perf_counter()
        with TemporaryDirectory(prefix="pivot-") as folder:
            outcome = self._pool.submit(_run, series, Path(folder), self.config).result()
            self.outbox.put(study.name, outcome.objects, self.spool.run_name(series))
        self.spool.record_run(series)
        seconds = round(time.perf_counter() - start, 1)
        objects = [path.name for path in outcome.objects]
        self.audit.write("run finished", **about, nodules=outcome.nodules, seconds=seconds, objects=objects)


def _lacking(error: BaseException) -> str:
    """What the system said that it lacks, at whatever depth of the causes."""
    while not isinstance(error, OSError):
        error = error.__cause__ or error.__context__ or OSError(0, "resources")
    return error.strerror or type(error).__name__


def _load(settings: Inference) -> None:
    from .worker import open_model  # noqa: PLC0415 - torch is for the worker's process

    open_model(settings)


def _run(series: Path, folder: Path, config: PacsConfig) -> "Outcome":
    from .worker import run_series  # noqa: PLC0415 - as above

    return run_series(series, folder, config)
