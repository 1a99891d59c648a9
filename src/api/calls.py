"""The client's calls as steps, which the sync and the async client carry out.

A call is a generator. It yields the next step, receives the step's outcome, and returns the call's result.
"""

import json
import os
import random
import tempfile
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import httpx

from .. import errors
from ..errors import BadConfig, BadOutput, BadScan, PivotError
from ..files import here_or_shipped, whole_file
from ..given import number_of, path_of, words_for

__all__ = [
    "Ask",
    "ByteProgress",
    "Call",
    "Came",
    "GivenConfig",
    "JobProgress",
    "Pause",
    "ServiceError",
    "cancel",
    "download",
    "inside",
    "insist",
    "job",
    "results",
    "submit",
    "submit_study",
    "url_of",
]

JOBS = "/api/v1/inference"
AGAIN = (429, 502, 503, 504)  # statuses after which a request is repeated
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between tries
POLL_SECONDS = 0.5
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """A request. A successful response is written to `sink`, if it is set."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Callable[[], dict[str, Any]] = dict  # is called for each try
    content: bytes | None = None  # instead of files
    sink: Path | None = None


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


GivenConfig: TypeAlias = Mapping[str, Any] | str | os.PathLike[str] | None
ByteProgress: TypeAlias = Callable[[int, int], None]  # bytes sent, and all bytes
JobProgress: TypeAlias = Callable[[dict[str, Any]], None]  # a job
Came: TypeAlias = httpx.Response | httpx.TransportError | None
Call: TypeAlias = Generator[Ask | Pause, Came, T]


class ServiceError(PivotError):
    """The service refused a request, or did not answer. `problem` holds the details.

    A fault in a scan or a configuration is raised as `BadScan` or `BadConfig` instead.
    """

    def __init__(self, message: str, status: int = 503, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


def submit(scan: str | Path, config: GivenConfig, progress: ByteProgress | None, key: str, retries: int) -> Call[str]:
    """Send a scan. Returns the job's id."""
    settings = _config_part(config)
    with _opened(path_of(scan, "scan_path", BadScan)) as (file, name):

        def files() -> dict[str, Any]:
            return {"file": (name, _ProgressFile(file, progress), "application/octet-stream"), **settings}

        answer = yield from insist(Ask("POST", JOBS, {"Idempotency-Key": key}, files), retries)
    return str(answer.json()["job_id"])


def submit_study(study: str, config: GivenConfig, key: str, retries: int) -> Call[str]:
    """Make the service fetch a study. Returns the job's id."""
    parts = {"study": (None, study), **_config_part(config)}
    answer = yield from insist(Ask("POST", JOBS, {"Idempotency-Key": key}, lambda: parts), retries)
    return str(answer.json()["job_id"])


def job(number: str, retries: int) -> Call[dict[str, Any]]:
    """The job."""
    answer = yield from insist(Ask("GET", url_of(number)), retries)
    state: dict[str, Any] = answer.json()
    return state


def results(number: str, timeout: float, progress: JobProgress | None, retries: int) -> Call[dict[str, Any]]:
    """The report, when the job is completed."""
    until = time.monotonic() + number_of(timeout, "timeout")
    while True:
        state = yield from job(number, retries)
        if progress:
            progress(state)
        if state["status"] == "completed":
            break
        if state["status"] in ("failed", "cancelled"):
            raise _error(state["error"] or {"status": 409, "detail": f"the job {number} was cancelled"})
        if time.monotonic() > until:
            msg = f"the job {number} is {state['status']} ({state['progress']} %) after {timeout:g} s; it continues"
            raise TimeoutError(msg)
        yield Pause(POLL_SECONDS)
    answer = yield from insist(Ask("GET", f"{url_of(number)}/results"), retries)
    report: dict[str, Any] = answer.json()
    return report


def download(number: str, folder: Path, retries: int, *, scan: bool) -> Call[list[Path]]:
    """Write the files of a job that is completed into a folder."""
    state = yield from job(number, retries)
    if state["status"] != "completed":
        msg = f"the job {number} is {state['status']}, so it has no results yet: wait_for_results first"
        raise _error(state.get("error") or {"status": 409, "detail": msg})
    listed = yield from insist(Ask("GET", f"{url_of(number)}/files"), retries)
    paths = []
    for file in listed.json()["files"]:
        if scan or file["kind"] != "scan":
            path = inside(folder, file["name"])
            with whole_file(path) as partial:
                yield from insist(Ask("GET", file["url"], sink=partial), retries)
            paths.append(path)
    return paths


def cancel(number: str, retries: int) -> Call[None]:
    """Cancel or remove the job."""
    yield from insist(Ask("DELETE", url_of(number)), retries)


def url_of(number: str) -> str:
    """The address of a job."""
    if not (isinstance(number, str) and number.isascii() and number.replace("-", "").isalnum()):
        msg = f"job_id must be what submit_inference returned, not {words_for(number)}"
        raise BadConfig(msg)
    return f"{JOBS}/{number}"


def insist(ask: Ask, retries: int, *, once: bool = False) -> Call[httpx.Response]:
    """Repeat a request until it is answered, with growing pauses.

    One that must be carried out only `once` is repeated only after answers that say that it was not.
    """
    again = (429, 503) if once else AGAIN
    for past in range(retries + 1):
        came = yield ask
        if isinstance(came, httpx.Response) and came.is_success:
            return came
        refused = isinstance(came, httpx.Response) and came.status_code not in again
        lost = once and isinstance(came, httpx.TransportError) and not isinstance(came, httpx.ConnectError)
        if past == retries or refused or lost:
            break
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**past) * random.uniform(0.5, 1)  # noqa: S311 - so that clients do not repeat in step
        yield Pause(max(pause, _retry_after(came)))
    if isinstance(came, httpx.Response):
        raise _error(_problem(came))
    msg = f"the service does not answer ({type(came).__name__}): is it running at this address?"
    raise ServiceError(msg)


def _retry_after(came: Came) -> float:
    asked = came.headers.get("retry-after", "") if isinstance(came, httpx.Response) else ""
    return float(asked) if asked.isdecimal() else 0.0


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        details = answer.json()
    except ValueError:
        details = None
    known = details if isinstance(details, dict) else {}
    return {"status": answer.status_code, "detail": f"the service answered {answer.status_code}", **known}


def _error(details: dict[str, Any]) -> PivotError:
    """The error for a problem."""
    message, kind = str(details["detail"]), str(details.get("type")).removeprefix("urn:pivot:")
    if kind in ("BadScan", "BadConfig"):
        known: PivotError = getattr(errors, kind)(message)
        return known
    return ServiceError(message, int(details["status"]), details)


def _config_part(config: GivenConfig) -> dict[str, Any]:
    """The configuration (a YAML file or a mapping) as a part of a form; empty without one."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        try:
            content = json.dumps(dict(config), default=os.fspath, allow_nan=False).encode()  # YAML accepts JSON
        except (TypeError, ValueError) as error:
            msg = f"config holds a value that YAML cannot express ({error})"
            raise BadConfig(msg) from None
        return {"config": ("config.yaml", content, "application/yaml")}
    path = here_or_shipped(path_of(config, "config"))
    try:
        return {"config": ("config.yaml", path.read_bytes(), "application/yaml")}
    except OSError as error:
        msg = f"cannot read the config {path}: {error.strerror}"
        raise BadConfig(msg) from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """The scan as one file, and its name. A folder is zipped."""
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                yield file, path.name
            return
        with tempfile.TemporaryFile(prefix="pivot-") as packed:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for inner in sorted(inner for inner in path.rglob("*") if inner.is_file()):
                    archive.write(inner, inner.relative_to(path))
            yield packed, f"{path.resolve().name}.zip"
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error})"
        raise BadScan(msg) from None


def inside(folder: Path, name: str) -> Path:
    """The path of a file in the folder. Names that would leave it are refused."""
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        msg = f"the service names a file {name!r} that would be outside {folder}"
        raise BadOutput(msg)
    return folder / name


class _ProgressFile:
    """A file for httpx, from its beginning, that reports how much of it was read."""

    def __init__(self, file: BinaryIO, progress: ByteProgress | None) -> None:
        self.file, self.progress = file, progress
        self.size = file.seek(0, 2)
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self.file.read(size)
        if self.progress and data:
            self.progress(self.file.tell(), self.size)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As for files."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """As for files."""
        return self.file.tell()
