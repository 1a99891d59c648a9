"""Reading ahead of a slower consumer, with bounded memory.

One item is read ahead. Each time that the consumer had to wait, one more is, up to a limit. If inference is slower than
reading, three volumes are in memory, whatever the number of workers: one is read, one inferred, one written.

The readers are imported when they are used. This takes a second, and may happen in another process.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from ..data.lungs import Lungs
from ..types import Scan

__all__ = ["Readied", "executor", "read_ahead", "read_timed"]

Item = TypeVar("Item")
P = ParamSpec("P")
T = TypeVar("T")


class Readied(NamedTuple):
    """A scan with its lungs, the seconds that reading took, and the hash of its files."""

    scan: Scan
    lungs: Lungs
    seconds: float
    sha256: str  # `content_hash` of its files


def read_timed(path: Path) -> Readied:
    """The scan at `path` with its lungs.

    Raises:
        BadScan: it cannot be read as a chest CT.
    """
    start = time.perf_counter()
    from ..data.fingerprint import content_hash  # noqa: PLC0415
    from ..data.geometry import canonical  # noqa: PLC0415
    from ..data.loader import read_scan  # noqa: PLC0415
    from ..data.lung_finder import find_lungs  # noqa: PLC0415

    scan = read_scan(path)
    lungs = find_lungs(*canonical(scan.array, scan.affine))
    sha256 = content_hash(path)
    return Readied(scan, lungs, time.perf_counter() - start, sha256)


def executor(workers: int) -> Executor:
    """A pool of threads. Without `workers` the calling thread runs each task when it is submitted."""
    return ThreadPoolExecutor(workers) if workers else _Here()


def read_ahead(
    readers: Executor, read: Callable[[Item], T], items: Sequence[Item], most: int
) -> Generator[tuple[Item, Future[T]], None, None]:
    """Each item with the future of its read. Up to `most` items are read ahead.

    Closing the generator cancels the reads that are not needed any more.
    """
    queue: deque[tuple[Item, Future[T]]] = deque()
    rest, ahead = iter(items), 0

    def submit(count: int) -> None:
        queue.extend((item, readers.submit(read, item)) for item in islice(rest, count))

    try:
        submit(1)
        while queue:
            item, reading = queue.popleft()
            if not reading.done():
                ahead = min(ahead + 1, most)
            submit(ahead - len(queue))
            yield item, reading
            submit(0 if queue else 1)
    finally:
        for _, reading in queue:
            reading.cancel()


class _Here(Executor):
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future's `result` raises it
            future.set_exception(error)
        return future
