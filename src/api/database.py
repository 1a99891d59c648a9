"""The table of jobs, in SQLite or PostgreSQL, and how it comes to be and changes with releases."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as Alembic
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["jobs", "now", "open_database"]

MIGRATIONS = Path(__file__).parent / "migrations"
WAIT = 30  # seconds for another's lock
LOCK = 0x5049564F54  # of PostgreSQL, while migrating: "PIVOT"

metadata = MetaData()

# Times are seconds since 1970 by the database's clock, so that those of the machines need not agree.
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),  # sorts by creation
    Column("owner", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("file", Text, nullable=False),  # the upload's name in the job's folder
    Column("size_bytes", BigInteger, nullable=False),
    Column("config", JSON, nullable=False),
    Column("idempotency_key", String(200)),
    Column("fingerprint", String(64), nullable=False),  # SHA-256 of the scan and the configuration
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempts", Integer, nullable=False, default=0),
    Column("lease", String(32)),  # whose turn it is: a token for each attempt
    Column("lease_until", Double),
    Column("windows_done", Integer, nullable=False, default=0),
    Column("windows_total", Integer),
    Column("result", String(32)),  # the attempt whose folder holds the results
    Column("error", JSON),  # a problem
    UniqueConstraint("owner", "idempotency_key", name="one_job_a_key"),
    Index("jobs_by_state", "state", "id"),
    Index("jobs_by_owner", "owner", "id"),
)


class now(FunctionElement[float]):  # noqa: N801 - an SQL function
    """Seconds since 1970 by the database's clock."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "extract(epoch from clock_timestamp())::float8"


def open_database(url: str) -> Engine:
    """The database at `url`, with the table in the form that this release needs."""
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": WAIT})
        event.listen(engine, "connect", _durable)
    else:
        engine = create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
    _migrate(engine)
    return engine


def _durable(connection: sqlite3.Connection, _record: object) -> None:
    _log_ahead(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on, which SQLite refuses at once while another writes, whatever its timeout is."""
    until = time.monotonic() + WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(engine: Engine) -> None:
    """Bring the table up to date; of several processes that start at once, one after the other."""
    alembic = Alembic()
    alembic.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        alembic.attributes.update(connection=connection, metadata=metadata)
        command.upgrade(alembic, "head")
