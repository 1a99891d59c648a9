"""Which workers live: each gives signs of life in a table, wherever it runs and whoever started it."""

import secrets
import time

from sqlalchemy import Engine, delete, func, insert, select, update

from .database import lease_clock, workers

__all__ = ["LIVING_SECONDS", "Sign", "living"]

BEAT_SECONDS = 3.0
LIVING_SECONDS = 20.0  # after its last sign of life
GONE_SECONDS = 3600.0


def living(engine: Engine) -> int:
    """How many workers gave a sign of life just now."""
    recent = workers.c.seen.between(lease_clock() - LIVING_SECONDS, lease_clock() + 1)
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(recent)).scalar_one()


class Sign:
    """A worker's signs of life."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.id = secrets.token_hex(16)
        self._told = float("-inf")

    def give(self) -> None:
        """Tell that this worker lives, if it was not told just now; forget those that have not for long."""
        now = time.monotonic()
        if now - self._told < BEAT_SECONDS:
            return
        with self.engine.begin() as connection:
            mine = update(workers).where(workers.c.id == self.id).values(seen=lease_clock())
            if not connection.execute(mine).rowcount:
                connection.execute(insert(workers).values(id=self.id, seen=lease_clock()))
            connection.execute(delete(workers).where(workers.c.seen < lease_clock() - GONE_SECONDS))
        self._told = now

    def end(self) -> None:
        """Tell that this worker is going."""
        with self.engine.begin() as connection:
            connection.execute(delete(workers).where(workers.c.id == self.id))
