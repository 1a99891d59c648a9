"""From a study that has arrived to results on their way: which series, whether it was run before, the run."""

import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..errors import BadScan, PivotError
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


class Processor:
    """Runs one series at a time in a process of its own, so that its end does not end the listener.

    Raises:
        BadConfig, BadCheckpoint: the model cannot be loaded.
    """

    def __init__(self, config: PacsConfig, spool: Spool, outbox: Outbox, audit: Audit) -> None:
        self.config, self.spool, self.outbox, self.audit = config, spool, outbox, audit
        self._pool = helpers(1)
        self._pool.submit(_load, config.inference).result()

    def close(self) -> None:
        """End the process, after the run at hand."""
        self._pool.shutdown()

    def work(self) -> None:
        """Run the studies that were cut short, and those that have arrived."""
        for study in self.spool.taken():
            self._study(study)
        for study in self.spool.waiting():
            if has_arrived(arrivals(study), self.config.completeness, time.time()):
                self._study(self.spool.take(study.name))

    def _study(self, study: Path) -> None:
        try:
            if self.spool.attempt(study) > MOST_ATTEMPTS:
                msg = f"the run was cut short {MOST_ATTEMPTS} times (stopped, killed, or out of memory)"
                raise PivotError(msg)  # noqa: TRY301 - told like all that goes wrong
            self._series(study, self._chosen(study))
        except BrokenProcessPool:
            self.audit.write("worker died", study=study.name)
            self._pool = helpers(1)
            return  # and the study is tried again
        except PivotError as error:
            self._refuse(study, str(error))
        except Exception as error:  # noqa: BLE001 - a fault in one study must not cost the others
            self._refuse(study, unforeseen(error))
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
            self.outbox.put(study.name, outcome.objects)
        self.spool.record_run(series)
        seconds = round(time.perf_counter() - start, 1)
        objects = [path.name for path in outcome.objects]
        self.audit.write("run finished", **about, nodules=outcome.nodules, seconds=seconds, objects=objects)


def _load(settings: Inference) -> None:
    from .worker import open_model  # noqa: PLC0415 - torch is for the worker's process

    open_model(settings)


def _run(series: Path, folder: Path, config: PacsConfig) -> "Outcome":
    from .worker import run_series  # noqa: PLC0415 - as above

    return run_series(series, folder, config)
