"""Reading ahead: ordered, bounded, and only as far as it saves time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.runs.read_ahead import executor, read_ahead


class Reader:
    """Counts the scans read."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.lock = seconds, threading.Lock()
        self.read, self.threads = 0, set[int]()

    def __call__(self, number: int) -> int:
        time.sleep(self.seconds)
        with self.lock:
            self.read += 1
            self.threads.add(threading.get_ident())
        return number


@given(st.integers(0, 9), st.integers(0, 3), st.integers(1, 4))
def test_results_come_in_order_and_reading_is_never_ahead_by_more_than_the_limit(
    count: int, workers: int, prefetch: int
) -> None:
    reader, most = Reader(), workers * prefetch
    with executor(workers) as pool:
        for taken, (number, reading) in enumerate(read_ahead(pool, reader, range(count), most)):
            assert reading.result() == number == taken
            assert reader.read <= taken + 1 + most
    assert reader.read == count


class ByHand(Executor):
    """Does nothing before `finish`."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *_: Any, **__: Any) -> Future[Any]:  # noqa: ARG002, ANN401
        self.futures.append(Future())
        return self.futures[-1]

    def finish(self, futures: list[Future[Any]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)


@pytest.mark.parametrize(
    ("reading_is_fast", "ahead"), [(True, [1, 1, 1, 1, 1, 1, 1, 0]), (False, [1, 2, 3, 3, 3, 2, 1, 0])]
)
def test_only_slow_reads_are_started_further_ahead(*, reading_is_fast: bool, ahead: list[int]) -> None:
    pool, seen = ByHand(), []
    for taken, (_, future) in enumerate(read_ahead(pool, Reader(), range(8), 3)):
        pool.finish(pool.futures if reading_is_fast else [future])
        seen.append(len(pool.futures) - taken - 1)
    assert seen == ahead


def test_without_workers_scans_are_read_one_by_one_in_this_thread() -> None:
    reader = Reader()
    with executor(0) as pool:
        for taken, (_, future) in enumerate(read_ahead(pool, reader, range(4), 0)):
            future.result()
            assert reader.read == taken + 1
    assert reader.threads == {threading.get_ident()}


def test_a_failed_read_raises_when_its_result_is_taken_and_the_others_continue() -> None:
    def read(number: int) -> float:
        return 1 / number

    with executor(1) as pool:
        futures = [future for _, future in read_ahead(pool, read, [0, 1], 2)]
    with pytest.raises(ZeroDivisionError):
        futures[0].result()
    assert futures[1].result() == 1


def test_unused_reads_are_cancelled() -> None:
    reader = Reader(0.02)
    with executor(1) as pool, closing(read_ahead(pool, reader, range(50), 40)) as items:
        for taken, (_, future) in enumerate(items):
            future.result()
            if taken == 5:
                break
    assert reader.read < 15
