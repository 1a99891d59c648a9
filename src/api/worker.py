"""A worker process: it takes jobs from the queue, one after another, on one device. The model stays loaded.

Usually the server starts the workers. With `PIVOT_DEVICES=none` you start any number yourself:
`python -m src.api.worker --device cuda:0`.
"""

import argparse
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from ..config import Config, load_config
from ..detection.pipeline import InferencePipeline
from ..errors import PivotError, command, lacking, way_to
from ..logs import add_log_options, show_log
from ..pacs.web import pull_study
from ..processes import limit_memory, stop_on_signal
from ..results.outlines import save_outlines
from ..runs import confined
from ..runs.outputs import check_outputs, write_outputs
from ..sandbox import UNCONFINED, can_confine
from . import jobs
from .database import open_database
from .jobs import Job
from .keep import keep_preview, keep_scan, keep_series
from .problems import problem
from .settings import Settings, load_settings
from .storage import OUTLINES, PATIENT, PREVIEW, SCAN, SERIES, STUDY, remove, tidy
from .workers import Heartbeat

__all__ = ["Worker", "main", "prepare", "start_log"]

log = logging.getLogger("pivot")
IDLE_SECONDS = 0.3
BEAT_SECONDS = 0.5
HUNG_SECONDS = 60.0  # after its time limit, a hanging job's process is ended
T = TypeVar("T")


class Abandoned(BaseException):
    """The current job must not be finished here. Like KeyboardInterrupt, it must not be caught as an error."""


class Worker:
    """One device, its loaded model, and its current job."""

    def __init__(self, settings: Settings, device: str, parent: int | None = None) -> None:
        self.settings, self.device, self.parent = settings, device, parent
        self.engine = open_database(settings.url)
        self.heartbeat = Heartbeat(self.engine)
        self.stopping = threading.Event()
        self.pipeline: InferencePipeline | None = None

    def run(self) -> None:
        """Work until `should_stop`."""
        while not self.should_stop():
            try:
                self.heartbeat.beat()
                job = jobs.claim(self.engine, self.settings.lease_seconds)
                if job is not None:
                    self.work(job)
                    continue
            except DBAPIError as error:  # the current job is repeated when its lease has expired
                log.warning("the database does not answer: %s", type(error).__name__)
            self.stopping.wait(IDLE_SECONDS)
        with suppress(DBAPIError):
            self.heartbeat.end()

    def should_stop(self) -> bool:
        """Whether a signal came, or the server that started this process has ended."""
        return self.stopping.is_set() or (self.parent is not None and os.getppid() != self.parent)

    def work(self, job: Job) -> None:
        """Do the job, and record how it ended."""
        log.info("job %s: attempt %d", job.id, job.attempts)
        turn = _Turn(self, job)
        error = None
        try:
            with turn:
                self._infer(job, turn)
        except Abandoned:
            if turn.give_back:
                persistently(lambda: jobs.release(self.engine, job))
            self._clear(job)
            return
        except DBAPIError:
            raise
        except Exception as caught:  # noqa: BLE001 - a faulty job must not stop the others
            _log_failure(job, caught)
            error = problem(_plain(caught, self.settings.jobs / job.id))
        finally:
            tempfile.tempdir = None
        if persistently(lambda: jobs.finish(self.engine, job, error, turn.done)):
            tidy(self.settings.jobs, job.id, None if error else job.lease)
        else:
            self._clear(job)

    def _infer(self, job: Job, turn: "_Turn") -> None:
        """Process the scan as on the command line, into the folder of this attempt."""
        if job.attempts > self.settings.attempts:
            msg = f"the job was given up: {self.settings.attempts} workers died with it, perhaps for lack of memory"
            raise PivotError(msg)
        folder = self.settings.jobs / job.id
        tempfile.tempdir = str(folder / _scratch(job))
        Path(tempfile.tempdir).mkdir()
        config = load_config(job.config)
        check_outputs(config)
        pipeline = self._pipeline(config)
        upload = folder / "input" / job.file
        source = self._fetched(upload) if upload.suffix == STUDY else upload
        limits = confined.ProcessLimits(Path(tempfile.tempdir), self.settings.memory, turn.check)
        scan, seconds = confined.read(source, config, limits)
        patient = upload.with_name(PATIENT)
        results = pipeline.predict(scan, progress=turn.windows, patient=patient if patient.exists() else None)
        turn.check()
        results_folder = folder / str(job.lease)
        keep_scan(scan, upload, results_folder / SCAN)
        keep_preview(scan, results_folder / PREVIEW)
        if config.output.dicom:
            keep_series(source, results_folder / SERIES)
        save_outlines(scan, results, results_folder / OUTLINES)
        export = partial(confined.export_objects, limits)
        write_outputs(scan, results, config, results_folder, seconds, source, export)
        turn.check()

    def _fetched(self, study: Path) -> Path:
        """The series of the study, in the folder for temporary files."""
        settings = self.settings
        return pull_study(settings.dicomweb_url, study.stem, tempfile.gettempdir(), login=settings.dicomweb_login)

    def _pipeline(self, config: Config) -> InferencePipeline:
        if self.pipeline is None:
            self.pipeline = InferencePipeline(self.settings.model_file, Config(), self.device)
        return self.pipeline.with_config(config)

    def _clear(self, job: Job) -> None:
        """Remove the files of this attempt. All others may belong to another worker."""
        for part in (str(job.lease), _scratch(job)):
            remove(self.settings.jobs, job.id, part)


class _Turn:
    """The lease of a running job. A thread renews it and reports the progress. `check` raises when it is lost."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self.worker, self.job = worker, job
        self.done = 0
        self.total: int | None = None
        self.lost = self.give_back = self.late = False
        self.until = time.monotonic() + worker.settings.job_seconds
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.finished.set()
        self.thread.join()

    def windows(self, done: int, total: int) -> None:
        """The progress of the inference."""
        self.done, self.total = done, total
        self.check()

    def check(self) -> None:
        """Raise if this job must not be finished, or not now."""
        if self.late:
            msg = f"the job took longer than {self.worker.settings.job_seconds:.0f} s, the limit of this service"
            raise PivotError(msg)
        self.give_back = not self.lost and self.worker.should_stop()
        if self.lost or self.give_back:
            raise Abandoned

    def _beat(self) -> None:
        settings = self.worker.settings
        while not self.finished.wait(BEAT_SECONDS):
            late_by = time.monotonic() - self.until
            self.late = late_by > 0
            if late_by > HUNG_SECONDS:
                self._give_up()
            try:
                self.worker.heartbeat.beat()
                self.lost |= not jobs.beat(self.worker.engine, self.job, settings.lease_seconds, self.done, self.total)
            except DBAPIError as error:  # the lease is valid for a while
                log.warning("the database does not answer: %s", type(error).__name__)

    def _give_up(self) -> None:
        """End the job and the process, because the hanging thread cannot be ended alone."""
        error = PivotError(f"the job hung beyond its limit of {self.worker.settings.job_seconds:.0f} s")
        jobs.finish(self.worker.engine, self.job, problem(error))
        os._exit(1)


def persistently(action: Callable[[], T]) -> T:
    """Do the action, and repeat it if the connection breaks."""
    for pause in (0.1, 0.3, 1, 3, 10):
        try:
            return action()
        except DBAPIError as error:
            log.warning("the database does not answer: %s", type(error).__name__)
            time.sleep(pause)
    return action()


def _scratch(job: Job) -> str:
    return f"{job.lease}.tmp"


def _log_failure(job: Job, error: Exception) -> None:
    """Log why a job failed, without the message: it may hold the name of a file or a patient."""
    kind = type(error).__name__
    if isinstance(error, (PivotError, MemoryError)):
        log.info("job %s: %s", job.id, kind)
        return
    log.error("job %s: unexpected %s (%s)", job.id, kind, way_to(error))


def _plain(error: Exception, folder: Path) -> PivotError:
    """The error in words for the user, without the paths of this machine."""
    if isinstance(error, PivotError):
        return type(error)(str(error).replace(f"{folder / 'input'}{os.sep}", "").replace(str(folder), "the job"))
    lack = lacking(error)
    if isinstance(lack, MemoryError):
        return PivotError("there is not enough memory for this scan")
    if lack:
        return PivotError(f"the service lacks resources for the job ({lack.strerror}): submit it again later")
    return PivotError(f"unexpected {type(error).__name__}; see the worker's log")


def prepare(level: str | None) -> Settings:
    """Prepare a worker process: load the settings, start the log (at `level`, else the settings'), make the folders.

    Raises:
        BadConfig: a setting has a wrong value.
    """
    settings = load_settings()
    start_log(level or settings.log)
    settings.make_folders()
    if not can_confine():
        log.warning(UNCONFINED)
    return settings


def start_log(level: str) -> None:
    """Log to stderr from the level on, without messages that name a scan."""
    show_log(level)
    logging.getLogger("pivot.scan").disabled = True  # its messages name uploads, and so patients


@command
def main(arguments: list[str] | None = None) -> None:
    """Run a worker until SIGTERM or SIGINT. Its current job goes back into the queue."""
    parser = argparse.ArgumentParser(prog="python -m src.api.worker", description="process the service's jobs")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    add_log_options(parser)
    options = parser.parse_args(arguments)
    settings = prepare(options.log)
    limit_memory(settings.memory)
    worker = Worker(settings, options.device, options.parent)
    stop_on_signal(worker.stopping)
    worker.run()


if __name__ == "__main__":
    sys.exit(main())
