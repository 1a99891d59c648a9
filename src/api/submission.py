"""From an upload to a queued job, for REST and WebSocket alike."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Engine

from .jobs import Job, new_id, submit, waiting
from .problems import BadRequest, Busy, Refused, TooMany
from .security import RateLimit
from .settings import Settings
from .storage import STUDY, new_folder, remove, sync
from .uploads import Incoming, client_config

__all__ = ["Arriving", "Service", "arriving", "queue"]

KEY_LENGTH = 200
RETRY_SECONDS = 5


class KeyReused(Refused):
    """An idempotency key that belongs to another submission."""

    status = 422


@dataclass
class Service:
    """What the handlers of a server process share."""

    settings: Settings
    engine: Engine
    rate: RateLimit = field(init=False)
    uploads: int = 0  # under way
    streams: int = 0  # that follow a job

    def __post_init__(self) -> None:
        self.rate = RateLimit(self.settings.submissions_per_minute)


class Arriving(NamedTuple):
    """A scan on its way, for a job that does not exist yet."""

    number: str
    owner: str
    incoming: Incoming


@asynccontextmanager
async def arriving(service: Service, owner: str, client: str) -> AsyncIterator[Arriving]:
    """Room for an upload; whatever of it did not become a job is gone afterwards.

    Raises:
        TooMany: the client sends too much.
        Busy: the server has no room.
    """
    service.rate.take(client)
    await asyncio.to_thread(_check_room, service, owner)
    if service.uploads >= service.settings.uploads:
        msg = f"{service.uploads} uploads are under way, as many as this server takes: try again"
        raise Busy(msg, retry_after=RETRY_SECONDS)
    service.uploads += 1
    jobs, number = service.settings.jobs, new_id()
    accepted = False
    try:
        incoming = Incoming(new_folder(jobs, number), service.settings.upload_bytes)
        try:
            yield Arriving(number, owner, incoming)
            accepted = incoming.accepted
        finally:
            incoming.abandon()
    finally:
        service.uploads -= 1
        if not accepted:
            await asyncio.shield(asyncio.to_thread(remove, jobs, number))  # also when the request is cancelled


async def queue(service: Service, scan: Arriving, file: str, config: bytes, key: str | None) -> Job:
    """The job for an upload that has arrived; that of an earlier submission with the same idempotency key.

    Raises:
        BadConfig: the configuration cannot be used.
        BadRequest: the key is too long, or no study can be fetched.
        KeyReused: the key belongs to another scan or configuration.
    """
    if key is not None and not 0 < len(key) <= KEY_LENGTH:
        msg = f"Idempotency-Key must have 1 to {KEY_LENGTH} characters"
        raise BadRequest(msg)
    if file.endswith(STUDY) and not service.settings.dicomweb_url:
        msg = "this service knows no DICOMweb server to fetch a study from: send its scan as `file`"
        raise BadRequest(msg)
    settings = await asyncio.to_thread(client_config, config, service.settings)
    fingerprint = hashlib.sha256(f"{scan.incoming.digest} {json.dumps(settings)}".encode()).hexdigest()
    await asyncio.to_thread(sync, scan.incoming.folder)
    job, scan.incoming.accepted = await asyncio.to_thread(
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
    if job.fingerprint != fingerprint:
        msg = "this Idempotency-Key belongs to another scan or configuration: use a new one"
        raise KeyReused(msg)
    return job


def _check_room(service: Service, owner: str) -> None:
    settings = service.settings
    if waiting(service.engine, owner) >= settings.queued_jobs:
        msg = f"{settings.queued_jobs} of your jobs have not ended yet: wait for some of them"
        raise TooMany(msg, retry_after=60)
    if shutil.disk_usage(settings.data).free < settings.free_bytes:
        msg = "the disk of the server is nearly full: delete jobs, or try again later"
        raise Busy(msg, retry_after=60)
