"""The queue: jobs are rows, and each is taken by one worker at a time.

A worker holds a lease on its job: a token that expires unless it is renewed. Then another worker can take the job. A
worker can change a job only while it holds the lease. So a job ends once, even if two workers work on it. Every change
is one atomic statement. PostgreSQL skips rows that another claim has locked.
"""

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import Engine, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from .database import jobs, lease_clock, now

__all__ = [
    "ID",
    "STATES",
    "Job",
    "State",
    "beat",
    "cancel",
    "claim",
    "counts",
    "expired",
    "find",
    "finish",
    "forget",
    "known",
    "new_id",
    "page",
    "release",
    "submit",
    "waiting",
]

State: TypeAlias = Literal["queued", "running", "completed", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "completed", "failed", "cancelled")
OPEN: tuple[State, ...] = ("queued", "running")
ID = "[0-9a-f]{32}"
LEAST_LEASE = 60.0  # seconds; a lease that lasts longer than any can was made before the machine's restart
AT_ONCE = 500  # values in a statement; databases allow some thousands


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the table. `database` describes its columns."""

    id: str
    owner: str
    state: State
    file: str
    size_bytes: int
    config: dict[str, Any]
    idempotency_key: str | None
    fingerprint: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    lease: str | None
    lease_until: float | None
    windows_done: int
    windows_total: int | None
    result: str | None
    error: dict[str, Any] | None

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN


def new_id() -> str:
    """An identifier that cannot be guessed. Identifiers sort by time, to the microsecond."""
    return f"{time.time_ns() // 1_000:014x}{secrets.token_hex(9)}"


def submit(engine: Engine, **columns: Any) -> tuple[Job, bool]:  # noqa: ANN401 - the columns that a new job has
    """The new job and True, or the existing job with the same owner and idempotency key and False."""
    values = {"state": "queued", "created_at": now(), "attempts": 0, "windows_done": 0, **columns}
    try:
        with engine.begin() as connection:
            return _job(connection.execute(insert(jobs).values(values).returning(jobs)).one()), True
    except IntegrityError:
        same = and_(jobs.c.owner == columns["owner"], jobs.c.idempotency_key == columns["idempotency_key"])
        with engine.connect() as connection:
            return _job(connection.execute(select(jobs).where(same)).one()), False


def find(engine: Engine, number: str, owner: str) -> Job | None:
    """The job, if it belongs to this owner."""
    if not re.fullmatch(ID, number):
        return None
    with engine.connect() as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == number, jobs.c.owner == owner)).one_or_none()
    return None if row is None else _job(row)


def page(engine: Engine, owner: str, limit: int, before: str | None, state: State | None) -> list[Job]:
    """The owner's newest jobs, at most `limit`, that are older than the job `before`."""
    query = select(jobs).where(jobs.c.owner == owner).order_by(jobs.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(jobs.c.id < before)
    if state is not None:
        query = query.where(jobs.c.state == state)
    with engine.connect() as connection:
        return [_job(row) for row in connection.execute(query)]


def waiting(engine: Engine, owner: str) -> int:
    """The number of the owner's jobs that have not ended."""
    query = select(func.count()).where(jobs.c.owner == owner, jobs.c.state.in_(OPEN))
    with engine.connect() as connection:
        return connection.execute(query).scalar_one()


def counts(engine: Engine) -> Mapping[str, int]:
    """The number of jobs in each state."""
    with engine.connect() as connection:
        rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
    found: dict[str, int] = dict(rows)
    return {state: found.get(state, 0) for state in STATES}


def claim(engine: Engine, lease_seconds: float) -> Job | None:
    """Take the oldest job that is queued, or whose lease has expired, under a new lease."""
    longest = lease_clock() + max(lease_seconds, LEAST_LEASE)
    over = or_(jobs.c.lease_until < lease_clock(), jobs.c.lease_until > longest)
    free = or_(jobs.c.state == "queued", and_(jobs.c.state == "running", over))
    oldest = select(jobs.c.id).where(free).order_by(jobs.c.id).limit(1).with_for_update(skip_locked=True)
    taken = (
        update(jobs)
        .where(jobs.c.id == oldest.scalar_subquery())
        .values(
            state="running",
            started_at=func.coalesce(jobs.c.started_at, now()),
            attempts=jobs.c.attempts + 1,
            lease=secrets.token_hex(16),
            lease_until=lease_clock() + lease_seconds,
            windows_done=0,
        )
    )
    with engine.begin() as connection:
        row = connection.execute(taken.returning(jobs)).one_or_none()
    return None if row is None else _job(row)


def beat(engine: Engine, job: Job, lease_seconds: float, done: int, total: int | None) -> bool:
    """Renew the lease and record the progress. False if the lease is lost, or the job was cancelled."""
    return _update_if_leased(
        engine,
        job,
        lease_until=lease_clock() + lease_seconds,
        windows_done=done,
        windows_total=total or job.windows_total,
    )


def release(engine: Engine, job: Job) -> bool:
    """Give the job back unfinished. The attempt does not count."""
    return _update_if_leased(engine, job, state="queued", lease=None, lease_until=None, attempts=job.attempts - 1)


def finish(engine: Engine, job: Job, error: dict[str, Any] | None = None, windows: int = 0) -> bool:
    """End the job, with the results in the folder of this lease, or with a problem. False if the lease is lost.

    You may repeat the call after a lost connection: it notices what the first call did.
    """
    end: dict[str, Any] = {"state": "failed", "error": error}
    if error is None:
        end = {"state": "completed", "result": job.lease, "windows_done": windows, "windows_total": windows}
    if _update_if_leased(engine, job, finished_at=now(), lease_until=None, **end):
        return True
    with engine.connect() as connection:
        query = select(jobs.c.id).where(jobs.c.id == job.id, jobs.c.lease == job.lease, jobs.c.state == end["state"])
        return connection.execute(query).one_or_none() is not None


def cancel(engine: Engine, job: Job) -> bool:
    """Cancel a job. False if it has ended already."""
    change = update(jobs).where(jobs.c.id == job.id, jobs.c.state.in_(OPEN))
    with engine.begin() as connection:
        done = connection.execute(change.values(state="cancelled", finished_at=now(), lease=None, lease_until=None))
    return done.rowcount == 1


def forget(engine: Engine, job: Job) -> None:
    """Delete the row of an ended job."""
    with engine.begin() as connection:
        connection.execute(delete(jobs).where(jobs.c.id == job.id, jobs.c.state.not_in(OPEN)))


def expired(engine: Engine, seconds: float) -> list[Job]:
    """The jobs that ended more than `seconds` ago."""
    with engine.connect() as connection:
        return [_job(row) for row in connection.execute(select(jobs).where(jobs.c.finished_at < now() - seconds))]


def known(engine: Engine, numbers: list[str]) -> list[Job]:
    """The existing jobs with these identifiers."""
    found: list[Job] = []
    with engine.connect() as connection:
        for first in range(0, len(numbers), AT_ONCE):
            some = select(jobs).where(jobs.c.id.in_(numbers[first : first + AT_ONCE]))
            found += [_job(row) for row in connection.execute(some)]
    return found


def _update_if_leased(engine: Engine, job: Job, **values: Any) -> bool:  # noqa: ANN401 - any columns
    mine = and_(jobs.c.id == job.id, jobs.c.lease == job.lease, jobs.c.state == "running")
    with engine.begin() as connection:
        return connection.execute(update(jobs).where(mine).values(**values)).rowcount == 1


def _job(row: Row[Any]) -> Job:
    return Job(**row._mapping)  # noqa: SLF001 - the documented access by name
