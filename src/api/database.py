"""The tables of jobs, workers and reviews, in SQLite or PostgreSQL, and their migrations."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as Alembic
from alembic.util import CommandError
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Engine,
    ForeignKey,
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
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ..errors import BadConfig

__all__ = ["jobs", "lease_clock", "now", "open_database", "reviews", "workers"]

MIGRATIONS = Path(__file__).parent / "migrations"
WAIT = 30  # seconds for another process's lock
LOCK = 0x5049564F54  # of PostgreSQL, for migrations: "PIVOT"
POOL, OVERFLOW = 10, 20  # connections
# Timeouts in seconds, for a frozen PostgreSQL or a dead network.
CONNECT_SECONDS, STATEMENT_SECONDS, SILENT_SECONDS = 5, 10, 15

metadata = MetaData()

# Times are seconds since 1970 by the database's clock. The machines' clocks need not agree.
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
    Column("lease", String(32)),  # a token for each attempt
    Column("lease_until", Double),
    Column("windows_done", Integer, nullable=False, default=0),
    Column("windows_total", Integer),
    Column("result", String(32)),  # the attempt whose folder holds the results
    Column("error", JSON),  # a problem
    UniqueConstraint("owner", "idempotency_key", name="one_job_a_key"),
    Index("jobs_by_state", "state", "id"),
    Index("jobs_by_owner", "owner", "id"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("seen", Double, nullable=False),  # the last heartbeat, by the clock of leases
)


reviews = Table(
    "reviews",
    metadata,
    Column("job", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, nullable=False),  # counts the changes
    Column("content", JSON, nullable=False),
)


class now(FunctionElement[float]):  # noqa: N801 - an SQL function
    """Seconds since 1970 by the database's clock."""

    type = Double()
    inherit_cache = True


class lease_clock(FunctionElement[float]):  # noqa: N801 - an SQL function
    """A monotonic clock in seconds. On SQLite it is this machine's, because no other machine uses the file."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(lease_clock, "sqlite")
def _lease_sqlite(element: lease_clock, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "pivot_monotonic()"


@compiles(now, "postgresql")
@compiles(lease_clock, "postgresql")
def _clock_postgresql(element: FunctionElement[float], compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401, ARG001
    return "extract(epoch from clock_timestamp())::float8"


def open_database(url: str) -> Engine:
    """The database at `url`, migrated to this release.

    Raises:
        BadConfig: the database is missing or unusable. The message contains neither the URL nor its password.
    """
    try:
        engine = _engine(url)
        _migrate(engine)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
        msg = "PIVOT_DATABASE_URL cannot be used: write postgresql+psycopg://user:password@host/database"
        raise BadConfig(msg) from None
    except (DBAPIError, CommandError) as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        where = make_url(url).database if url.startswith("sqlite") else "the one of PIVOT_DATABASE_URL"
        msg = f"the database of jobs cannot be used ({where}): {reason}"
        raise BadConfig(msg) from None
    return engine


def _engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": WAIT})
        event.listen(engine, "connect", _set_up_sqlite)
        return engine
    limits = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": SILENT_SECONDS,
        "tcp_user_timeout": SILENT_SECONDS * 1000,
    }
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=POOL,
        max_overflow=OVERFLOW,
        pool_timeout=CONNECT_SECONDS,
        connect_args=limits if make_url(url).get_driver_name() == "psycopg" else {},
    )
    event.listen(engine, "connect", _set_statement_timeout)
    return engine


def _set_statement_timeout(connection: Any, _record: object) -> None:  # noqa: ANN401 - a connection of any driver
    connection.cursor().execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
    connection.commit()


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.create_function("pivot_monotonic", 0, time.monotonic)
    _enable_write_ahead_log(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _enable_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite refuses this at once while another process writes, despite its timeout."""
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
    """Migrate the tables. Processes that start at once do so one after another."""
    alembic = Alembic()
    alembic.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))  # another process may take long
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        alembic.attributes.update(connection=connection, metadata=metadata)
        command.upgrade(alembic, "head")
