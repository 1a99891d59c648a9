"""Turns an upload into a queued job, for REST and WebSocket."""

import asyncio
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from ..errors import BadConfig
from ..guidelines.patient import Patient, load_patient
from ..plain_yaml import BadYaml, parse_yaml
from .jobs import Job, new_id, submit, waiting
from .problems import BadRequest, Busy, Refused, TooMany
from .security import RateLimit
from .settings import Settings
from .storage import PATIENT, STUDY, new_folder, remove, sync
from .uploads import Incoming, client_config

__all__ = ["Arriving", "Service", "arriving", "queue"]

KEY_LENGTH = 200
RETRY_SECONDS = 5
DATABASE_SECONDS = 10.0  # timeout of one query
DATABASE_THREADS = 20
CONFIG_THREADS = 2  # for parsing configurations: slow ones then delay only other configurations
P = ParamSpec("P")
T = TypeVar("T")


class KeyReused(Refused):
    """An idempotency key that belongs to another submission."""

    status = 422


@dataclass
class Service:
    """The shared state of a server process's handlers."""

    settings: Settings
    engine: Engine
    rate: RateLimit = field(init=False)
    arriving: dict[str, str] = field(default_factory=dict)  # running uploads: future job id to client
    streams: int = 0  # WebSockets that follow a job
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while a reader's nodule is measured
    seen: dict[str, float] = field(default_factory=dict)  # job folders, with the time when the sweep first saw them

    def __post_init__(self) -> None:
        self.rate = RateLimit(self.settings.submissions_per_minute)
        self._database = ThreadPoolExecutor(DATABASE_THREADS, "database")
        self._configs = ThreadPoolExecutor(CONFIG_THREADS, "config")

    async def ask(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a database action. It runs in a pool of its own, which a frozen database may block.

        Raises:
            Busy: the database does not answer in time. The action may still happen.
        """
        asked = asyncio.get_running_loop().run_in_executor(self._database, partial(action, *args, **kwargs))
        try:
            return await asyncio.wait_for(asked, DATABASE_SECONDS)
        except TimeoutError:
            msg = "the database does not answer: try again"
            raise Busy(msg, retry_after=RETRY_SECONDS) from None

    async def read_config(self, text: bytes) -> dict[str, Any]:
        """A client's configuration.

        Raises:
            BadConfig: the configuration is invalid.
        """
        return await asyncio.get_running_loop().run_in_executor(self._configs, client_config, text, self.settings)

    async def keep_patient(self, text: bytes, folder: Path) -> None:
        """Check the patient data, and keep it in `folder`, beside the upload, until the job has ended.

        Raises:
            BadConfig: the data is invalid. The message does not repeat it.
        """
        if text:
            patient = await asyncio.get_running_loop().run_in_executor(self._configs, _patient, text)
            (folder / PATIENT).write_text(patient.model_dump_json(exclude_none=True), encoding="utf-8")

    def close(self) -> None:
        """Close the database."""
        for pool in (self._database, self._configs):
            pool.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


def _patient(text: bytes) -> Patient:
    try:
        data = parse_yaml(text.decode("utf-8"))
    except (BadYaml, UnicodeDecodeError) as error:
        line = getattr(error, "line", None)
        msg = "patient is not valid YAML" + (f": see line {line}" if line else "")
        raise BadConfig(msg) from None
    if data is not None and not isinstance(data, dict):
        msg = "patient must hold keys such as `age: 62`"
        raise BadConfig(msg)
    return load_patient(data)


class Arriving(NamedTuple):
    """A scan that is being uploaded for a future job."""

    number: str
    owner: str
    incoming: Incoming


@asynccontextmanager
async def arriving(service: Service, owner: str, client: str) -> AsyncIterator[Arriving]:
    """A folder for an upload. If the upload does not become a job, the folder is removed.

    Raises:
        TooMany: the client has too many uploads or jobs.
        Busy: the server has no capacity left.
    """
    service.rate.take(client)
    await _check_room(service, owner)
    jobs, number = service.settings.jobs, new_id()
    _take_place(service, client, number)
    incoming = None
    try:
        incoming = Incoming(new_folder(jobs, number), service.settings.upload_bytes)
        yield Arriving(number, owner, incoming)
    finally:
        del service.arriving[number]
        if incoming is not None:
            incoming.abandon()
        if incoming is None or not incoming.accepted:
            await asyncio.shield(asyncio.to_thread(remove, jobs, number))  # also when the request is cancelled


async def queue(service: Service, scan: Arriving, file: str, config: bytes, key: str | None) -> Job:
    """The job for a complete upload, or the existing job with the same idempotency key.

    Raises:
        BadConfig: the configuration cannot be used.
        BadRequest: the key is too long, or no DICOMweb server is configured.
        KeyReused: the key belongs to another scan or configuration.
    """
    if key is not None and not 0 < len(key) <= KEY_LENGTH:
        msg = f"Idempotency-Key must have 1 to {KEY_LENGTH} characters"
        raise BadRequest(msg)
    if file.endswith(STUDY) and not service.settings.dicomweb_url:
        msg = "this service has no DICOMweb server to fetch a study from: send its scan as `file`"
        raise BadRequest(msg)
    settings = await service.read_config(config)
    fingerprint = hashlib.sha256(f"{scan.incoming.digest} {json.dumps(settings)}".encode()).hexdigest()
    await asyncio.to_thread(sync, scan.incoming.folder)
    # If the database's answer is lost, the row may still exist. So the scan is kept; the sweep removes it if not.
    scan.incoming.accepted = True
    try:
        job, scan.incoming.accepted = await service.ask(
            submit,
            service.engine,
            id=scan.number,
            owner=scan.owner,
            file=file,
            size_bytes=scan.incoming.size,
            config=settings,
            idempotency_key=key,
            fingerprint=fingerprint,
        )
    except DBAPIError as error:
        scan.incoming.accepted = error.connection_invalidated
        raise
    if job.fingerprint != fingerprint:
        msg = "this Idempotency-Key belongs to another scan or configuration: use a new one"
        raise KeyReused(msg)
    return job


def _take_place(service: Service, client: str, number: str) -> None:
    """Count the upload. Each client has a limit, so that no client can use all places."""
    settings, mine = service.settings, Counter(service.arriving.values())[client]
    if mine >= settings.uploads_per_key:
        msg = f"{mine} of your uploads are running, the limit for one client: wait for one to end"
        raise TooMany(msg, retry_after=RETRY_SECONDS)
    if len(service.arriving) >= settings.uploads:
        msg = f"{len(service.arriving)} uploads are running, the limit of this server: try again"
        raise Busy(msg, retry_after=RETRY_SECONDS)
    service.arriving[number] = client


async def _check_room(service: Service, owner: str) -> None:
    settings = service.settings
    if await service.ask(waiting, service.engine, owner) >= settings.queued_jobs:
        msg = f"{settings.queued_jobs} of your jobs have not ended yet: wait for some of them"
        raise TooMany(msg, retry_after=60)
    if shutil.disk_usage(settings.data).free < settings.free_bytes:
        msg = "the disk of the server is nearly full: delete jobs, or try again later"
        raise Busy(msg, retry_after=60)
