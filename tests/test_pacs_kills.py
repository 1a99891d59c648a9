"""No study is lost if the PACS service is killed, a run crashes or hangs, or resources run out."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from pydicom import dcmread

from src.errors import BadConfig, BadOutput, BadScan, PivotError, lacking
from src.pacs import completeness, listener, processing, series_choice, worker
from src.pacs.completeness import arrivals, has_arrived
from src.pacs.processing import MOST_CUT, MOST_FAILED, Outcome
from src.pacs.series_choice import choose_series
from src.pacs.settings import Completeness, SeriesRules
from src.pacs.spool import Spool
from tests.pacs import audit_of, series_of, settings, until
from tests.small_scans import tiny_checkpoint
from tests.test_pacs_hostile import Service, encoded, raising, service

__all__ = ["service"]

LACKS = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOSPC, "No space"), MemoryError()]


@pytest.mark.parametrize("cut", [1, 3, MOST_CUT - 1])
def test_killing_the_listener_does_not_count_as_a_failure_of_the_study(service: Service, cut: int) -> None:
    study = service.spool.take(service.receive(series_of()))
    for _ in range(cut):
        service.spool.begin(study)  # and the listener is killed
    service.processor.work()
    assert service.events(study.name)[-1] == "run finished"
    assert not list(service.spool.work.iterdir())


def test_a_study_that_always_kills_the_listener_is_set_aside_and_can_be_run_later(service: Service) -> None:
    slices = series_of()
    study = service.spool.take(service.receive(slices))
    for _ in range(MOST_CUT):
        service.spool.begin(study)
    later = service.receive(series_of())
    service.processor.work()
    assert service.events(later)[-1] == "run finished"
    [line] = audit_of(service.config, "study set aside", study=study.name)
    assert "the listener ended in 10 of its runs" in line["reason"]
    kept = service.config.spool / line["place"]
    assert len(list(kept.glob("*/*.dcm"))) == len(slices)
    kept.rename(service.spool.incoming / study.name)  # as the documentation tells the operator
    service.processor.work()
    assert service.events(study.name)[-1] == "run finished"


@pytest.mark.parametrize("error", [BrokenProcessPool(), MemoryError(), BadOutput("no"), BadConfig("no")])
def test_a_failure_that_is_not_due_to_the_content_sets_the_study_aside(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bad = service.receive(series_of())
    order = list[str]()

    def run(series: Path, *_: object) -> Outcome:
        order.append(series.parent.name)
        if series.parent.name == bad:
            raise error
        return Outcome(0, [])

    monkeypatch.setattr(processing, "_run", run)
    service.work_again()
    others = [service.receive(series_of()) for _ in range(2)]
    service.work_again()
    assert set(order[1:3]) == set(others)  # does not delay other studies
    for _ in range(MOST_FAILED):
        service.work_again()
    assert order.count(bad) == MOST_FAILED
    assert [service.events(other)[-1] for other in others] == ["run finished"] * 2
    assert service.events(bad)[-1] == "study set aside"
    assert "study refused" not in service.events(bad)
    assert len(list(service.spool.aside.glob(f"{bad}/*/*.dcm"))) == len(series_of())


def test_late_slices_of_a_series_are_not_run_as_a_whole_series(service: Service) -> None:
    slices = series_of()
    service.config = service.processor.config = service.config.model_copy(
        update={"completeness": Completeness(quiet_seconds=0, interrupted_seconds=0)}
    )
    for one in slices[:6]:
        service.spool.add(encoded(one), one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID, "broken")
    service.processor.work()
    study = service.receive(slices[6:])
    service.processor.work()
    first, second = audit_of(service.config, "study refused", study=study)
    assert "interrupted after 6 instances" in first["reason"]
    assert "6 of its instances came earlier, and were removed" in second["reason"]
    service.receive(slices)
    service.processor.work()
    assert service.events(study)[-1] == "run finished"


def test_two_studies_with_one_uid_are_both_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for content in (b"one", b"other"):
        spool.add(content, "1.2", "3", "4", "x")
        spool.set_aside(spool.take("1.2"))
    assert {file.read_bytes() for file in tmp_path.glob("aside/*/3/4.dcm")} == {b"one", b"other"}


def test_a_lack_of_memory_is_reported_as_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def caused(cause: Exception) -> PivotError:
        error = PivotError("not enough memory for this scan")
        error.__cause__ = cause
        return error

    class Settings:
        inference = None

    monkeypatch.setattr(worker, "open_pipeline", lambda _: None)
    for error, kind in [
        (caused(MemoryError()), MemoryError),
        (caused(RuntimeError("CUDA out of memory")), MemoryError),
        (caused(RuntimeError("can't start new thread")), OSError),
        (caused(OSError(errno.ENOSPC, "full")), OSError),
        (BadScan("no CT"), BadScan),
    ]:
        monkeypatch.setattr(worker, "_run", raising(error))
        with pytest.raises(kind):
            worker.run_series(tmp_path, tmp_path, Settings())  # type: ignore[arg-type]
    assert lacking(ValueError("other")) is None


def test_a_series_is_read_in_the_confined_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that reads uploads also reads the series, not the listener or its worker (see `test_sandbox`)."""
    slices, series, results = series_of(), tmp_path / "series", tmp_path / "results"
    series.mkdir()
    for number, one in enumerate(slices):
        (series / f"{number}.dcm").write_bytes(encoded(one))
    inference = {"checkpoint": tiny_checkpoint(tmp_path / "tiny.pth"), "device": "cpu"}
    config = settings(tmp_path, tmp_path, inference=inference, results=["sr", "pdf"], keep_results=results)
    for place in ("src.data.loader.read_scan", "src.data.part10.read_dicom", "src.data.headers.read_dicom"):
        monkeypatch.setattr(place, raising(AssertionError("it is read here")))
    outcome = worker.run_series(series, tmp_path, config)
    assert [path.name for path in outcome.objects] == ["nodules_sr.dcm", "report.dcm"]
    assert dcmread(outcome.objects[0]).StudyInstanceUID == slices[0].StudyInstanceUID


def test_a_process_that_died_before_a_run_does_not_count_as_a_failure_of_the_study(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = iter([True, False, False, False])

    def load(_settings: object) -> None:
        if next(deaths, False):
            raise BrokenProcessPool

    study = service.receive(series_of())
    monkeypatch.setattr(processing, "_load", load)
    service.processor.work()
    assert service.events(study)[-1] == "run finished"
    assert not audit_of(service.config, "worker died")


def test_studies_wait_until_the_model_can_be_loaded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    study = service.receive(series_of())
    with monkeypatch.context() as gone:
        gone.setattr(processing, "_load", raising(BadConfig("the model is gone")))
        for _ in range(MOST_FAILED + MOST_CUT):
            service.work_again()
    service.work_again()
    *waits, choice, started, finished = service.events(study)
    assert (set(waits), choice, started, finished) == ({"study waits"}, "series choice", "run started", "run finished")


def test_the_listeners_process_does_not_import_the_network(root: Path) -> None:
    """Unpickling the outcome of a run must not import the network in the listener."""
    code = (
        "import pickle, sys, src.pacs.listener; from src.pacs.processing import Outcome; "
        "pickle.loads(pickle.dumps(Outcome(1, []))); print('torch' in sys.modules, Outcome.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "src.pacs.processing"]


def test_stopping_ends_after_the_current_run(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> Outcome:
        service.processor.stopping.set()
        return Outcome(0, [])

    studies = [service.receive(series_of()) for _ in range(3)]
    monkeypatch.setattr(processing, "_run", run)
    service.processor.work()
    assert sorted(service.events(study)[-1:] for study in studies) == [[], [], ["run finished"]]


@pytest.mark.parametrize("lack", LACKS)
def test_a_lack_of_resources_while_examining_a_study_is_no_failure_of_the_study(
    service: Service, monkeypatch: pytest.MonkeyPatch, lack: Exception
) -> None:
    study = service.receive(series_of())
    [series] = (service.spool.incoming / study).iterdir()
    with monkeypatch.context() as poor:
        for module in (completeness, series_choice):
            poor.setattr(module, "read_dicom", raising(lack))
        with pytest.raises(type(lack)):
            arrivals(series.parent)
        with pytest.raises(type(lack)):
            choose_series([series], SeriesRules())
        for _ in range(2):
            service.work_again()
    with monkeypatch.context() as poor:
        poor.setattr(os, "scandir", raising(lack))
        for look in (service.spool.was_run, service.spool.run_name, service.spool.record_run):
            with pytest.raises(type(lack)):
                look(series)  # it must raise: an empty folder would count as already run
    service.work_again()
    assert service.events(study)[-1] == "run finished"
    assert "study refused" not in service.events(study)


def test_a_clock_that_is_set_back_delays_no_study(tmp_path: Path) -> None:
    Spool(tmp_path).add(b"", "1.2", "3", "4", "x")
    [series] = (tmp_path / "incoming/1.2").iterdir()
    os.utime(series, (time.time() + 86400,) * 2)
    rules, now = Completeness(quiet_seconds=5, interrupted_seconds=5), time.time()
    assert not has_arrived(arrivals(series.parent), rules, now)
    assert has_arrived(arrivals(series.parent), rules, now + 6)


def test_a_hanging_run_is_killed_and_the_next_study_is_run(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also, a SIGTERM to all processes of the service does not end the run."""
    running = Service(
        tmp_path,
        root,
        inference={
            "checkpoint": tiny_checkpoint(tmp_path / "tiny.pth"),
            "config": quick(tmp_path),
            "device": "cpu",
            "time_limit": 300,
        },
        results=["sr"],
    )
    processor, good = running.processor, running.receive(series_of())
    try:
        pid = processor._ready().submit(os.getpid).result()  # noqa: SLF001
        os.kill(pid, signal.SIGTERM)
        hanging = running.spool.take(running.receive(series_of()))
        [series] = hanging.iterdir()
        os.mkfifo(series / "9.dcm")  # reading it blocks forever
        short = running.config.inference.model_copy(update={"time_limit": 2})
        monkeypatch.setattr(processor, "config", running.config.model_copy(update={"inference": short}))
        (tmp_path / "out").mkdir()
        with pytest.raises(BrokenProcessPool):
            processor._run(hanging, series, tmp_path / "out")  # noqa: SLF001
        assert processor._pool is None  # noqa: SLF001
        [line] = audit_of(running.config, "worker died", study=hanging.name)
        assert "longer than inference.time_limit (2 s)" in line["reason"]
        until(lambda: not psutil.pid_exists(pid))
        shutil.rmtree(hanging)
        monkeypatch.setattr(processor, "config", running.config)
        processor.work()
        assert running.events(good)[-1] == "run finished"
    finally:
        processor.close()


def quick(folder: Path) -> Path:
    file = folder / "quick.yaml"
    file.write_text(yaml.safe_dump({"inference": {"patch_size": [32, 32, 32], "second_look": False}}))
    return file


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restores the signal handlers afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    descriptor = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(descriptor)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("moment", ["start", "later"])
def test_a_signal_at_any_moment_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    ended = threading.Event()

    @contextmanager
    def listening(_config: object) -> Iterator[int]:
        if moment == "start":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        yield 1
        ended.set()

    (tmp_path / "pacs.yaml").write_text("keep_results: x\n")
    monkeypatch.setattr(listener, "listening", listening)
    assert listener.main(["--config", str(tmp_path / "pacs.yaml")]) == 0
    assert ended.is_set()
