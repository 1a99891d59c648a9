"""The living workers. Each records heartbeats in a table, wherever it runs."""

import secrets
import time

from sqlalchemy import Engine, delete, func, insert, select, update

from .database import lease_clock, workers

__all__ = ["LIVING_SECONDS", "Heartbeat", "living"]

BEAT_SECONDS = 3.0
LIVING_SECONDS = 20.0  # after its last heartbeat
GONE_SECONDS = 3600.0  # after its last heartbeat, its row is removed


def living(engine: Engine) -> int:
    """The number of workers with a recent heartbeat."""
    recent = workers.c.seen.between(lease_clock() - LIVING_SECONDS, lease_clock() + 1)
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(recent)).scalar_one()


class Heartbeat:
    """A worker's heartbeats."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.id = secrets.token_hex(16)
        self._last = float("-inf")

    def beat(self) -> None:
        """Record a heartbeat if the last one is old enough, and remove workers that are gone."""
        now = time.monotonic()
        if now - self._last < BEAT_SECONDS:
            return
        with self.engine.begin() as connection:
            mine = update(workers).where(workers.c.id == self.id).values(seen=lease_clock())
            if not connection.execute(mine).rowcount:
                connection.execute(insert(workers).values(id=self.id, seen=lease_clock()))
            connection.execute(delete(workers).where(workers.c.seen < lease_clock() - GONE_SECONDS))
        self._last = now

    def end(self) -> None:
        """Remove this worker."""
        with self.engine.begin() as connection:
            connection.execute(delete(workers).where(workers.c.id == self.id))
