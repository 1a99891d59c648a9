"""Processes that work for another one end with it."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from .pacs import until

PARENT = """
import os
from src.processes import helpers
if __name__ == "__main__":
    pool = helpers(1)
    for _ in range(2):
        print(pool.submit(os.getpid).result(), flush=True)
        input()
"""

WAITS = """
import os, signal, threading
from src.processes import stop_on_signal
stopping = threading.Event()
stop_on_signal(stopping)
with stopping._cond:  # as while it begins to wait
    os.kill(os.getpid(), signal.{signal})
    for _ in range(1000):
        pass
stopping.wait()
os.kill(os.getpid(), signal.{signal})  # a second one does no harm
print("stopped")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_whatever_the_process_does_at_that_moment(name: str) -> None:
    command = [sys.executable, "-c", WAITS.format(signal=name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "stopped\n"


def test_a_helper_ends_with_its_parent_even_if_that_is_killed() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin
        assert parent.stdout
        helper = psutil.Process(int(parent.stdout.readline()))
        os.kill(helper.pid, signal.SIGINT)  # Ctrl-C reaches it too
        print(file=parent.stdin, flush=True)
        assert int(parent.stdout.readline()) == helper.pid
        parent.kill()
    until(lambda: not helper.is_running())
