"""The job queue, on SQLite and, if available, on PostgreSQL."""

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text

from src.api import jobs
from src.api.database import metadata, open_database
from src.api.jobs import Job

POSTGRES = os.environ.get("PIVOT_TEST_POSTGRES", "")  # postgresql+psycopg://user:password@host/database


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        made = open_database(f"sqlite:///{tmp_path}/jobs.sqlite")
        yield made
        made.dispose()
        return
    if not POSTGRES:
        pytest.skip("needs PIVOT_TEST_POSTGRES, the URL of a PostgreSQL database")
    schema, admin = f"test_{uuid.uuid4().hex}", create_engine(POSTGRES)
    with admin.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    made = open_database(f"{POSTGRES}?options=-csearch_path%3D{schema}")
    yield made
    made.dispose()
    with admin.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


def _submit(engine: Engine, **columns: Any) -> Job:  # noqa: ANN401
    values = {"owner": "a", "file": "scan.nii", "size_bytes": 1, "config": {}, "fingerprint": "f", **columns}
    return jobs.submit(engine, id=jobs.new_id(), **values)[0]


def _claim(engine: Engine, seconds: float = 60) -> Job:
    job = jobs.claim(engine, seconds)
    assert job is not None
    return job


def _state(engine: Engine, job: Job) -> Job:
    found = jobs.find(engine, job.id, job.owner)
    assert found is not None
    return found


def test_identifiers_sort_by_time_to_the_microsecond(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    made = []
    for later in range(20):
        monkeypatch.setattr(time, "time_ns", lambda later=later: now + 1_000 * later)
        made.append(jobs.new_id())
    assert made == sorted(made)
    assert {len(one) for one in made} == {32}


def test_jobs_are_claimed_in_order_and_once(engine: Engine) -> None:
    sent = [_submit(engine) for _ in range(3)]
    taken = [_claim(engine) for _ in range(3)]
    assert [job.id for job in taken] == [job.id for job in sent]
    assert {(job.state, job.attempts) for job in taken} == {("running", 1)}
    assert len({job.lease for job in taken}) == 3
    assert jobs.claim(engine, 60) is None
    assert abs(taken[0].created_at - time.time()) < 60


def test_many_workers_claim_each_job_once(engine: Engine) -> None:
    sent = {_submit(engine).id for _ in range(24)}
    start, taken = threading.Barrier(6), []

    def work() -> None:
        start.wait()
        while job := jobs.claim(engine, 60):
            taken.append(job.id)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work) for _ in range(6)]:
            done.result()
    assert sorted(taken) == sorted(sent)


def test_a_worker_without_heartbeat_loses_its_job_and_its_later_messages_are_ignored(engine: Engine) -> None:
    _submit(engine)
    first = _claim(engine, 0.05)
    assert jobs.beat(engine, first, 0.05, 3, 9)
    assert (_state(engine, first).windows_done, _state(engine, first).windows_total) == (3, 9)
    time.sleep(0.1)
    second = _claim(engine)
    assert (second.id, second.attempts, second.windows_done) == (first.id, 2, 0)
    assert not jobs.beat(engine, first, 60, 5, 9)
    assert not jobs.release(engine, first)
    assert not jobs.finish(engine, first)
    assert _state(engine, first).state == "running"
    assert jobs.finish(engine, second)
    assert jobs.finish(engine, second)  # repeated, as after a lost connection
    assert not jobs.finish(engine, second, {"status": 500})
    done = _state(engine, second)
    assert (done.state, done.result, done.error) == ("completed", second.lease, None)
    assert jobs.claim(engine, 60) is None


def test_a_returned_job_does_not_count_as_an_attempt(engine: Engine) -> None:
    _submit(engine)
    assert jobs.release(engine, _claim(engine))
    assert _claim(engine).attempts == 1


def test_a_cancelled_job_stays_cancelled(engine: Engine) -> None:
    waiting, running = _submit(engine), _submit(engine)
    assert jobs.cancel(engine, waiting)
    taken = _claim(engine)
    assert taken.id == running.id
    assert jobs.cancel(engine, taken)
    assert not jobs.cancel(engine, taken)
    assert not jobs.beat(engine, taken, 60, 1, 2)
    assert not jobs.finish(engine, taken)
    assert jobs.counts(engine)["cancelled"] == 2
    assert jobs.waiting(engine, "a") == 0
    jobs.forget(engine, taken)
    assert jobs.find(engine, taken.id, "a") is None


def test_an_idempotency_key_belongs_to_its_owner(engine: Engine) -> None:
    one = _submit(engine, idempotency_key="k")
    with ThreadPoolExecutor(4) as pool:
        again = [pool.submit(_submit, engine, idempotency_key="k") for _ in range(8)]
    assert {job.result().id for job in again} == {one.id}
    assert _submit(engine, owner="b", idempotency_key="k").id != one.id
    assert len({_submit(engine).id for _ in range(3)}) == 3


def test_an_open_job_does_not_expire(engine: Engine) -> None:
    job = _submit(engine)
    jobs.forget(engine, job)
    assert [one.id for one in jobs.known(engine, [job.id, "other"])] == [job.id]
    assert jobs.expired(engine, -60) == []


def test_migrations_create_the_table_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_servers_that_start_at_the_same_time_migrate_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        engines = [pool.submit(open_database, f"sqlite:///{tmp_path}/jobs.sqlite") for _ in range(4)]
    for made in engines:
        assert jobs.counts(made.result())["queued"] == 0
        made.result().dispose()


def test_opening_waits_for_a_locked_database(tmp_path: Path) -> None:
    """SQLite's own timeout does not cover the change to its write-ahead log."""
    path = tmp_path / "jobs.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        opened = pool.submit(open_database, f"sqlite:///{path}")
        assert not wait([opened], timeout=0.3).done
        other.execute("COMMIT")
        assert jobs.counts(opened.result())["queued"] == 0
        opened.result().dispose()
