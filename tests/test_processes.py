"""Helper processes end with their parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from src import processes

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


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n", "slice/cpu.max": "50000 100000\n"}, 1),
        ({"slice/job/cpu.max": "300000 100000\n", "slice/cpu.max": "200000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "6400000 100000\n"}, None),
        ({}, None),
    ],
)
def test_torch_gets_the_threads_of_the_cpu_quota(
    files: dict[str, str], threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (own := tmp_path / "cgroup").write_text("1:cpu:/\n0::/slice/job\n")
    monkeypatch.setattr(processes, "CGROUPS", tmp_path)
    monkeypatch.setattr(processes, "CGROUP", own)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    expected = {"OMP_WAIT_POLICY": "PASSIVE"} | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    assert processes.openmp_settings() == expected
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert processes.openmp_settings()["OMP_WAIT_POLICY"] == "ACTIVE"


def test_helper_processes_wait_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with processes.helpers(1) as pool:
        assert pool.submit(os.getenv, "OMP_WAIT_POLICY").result() == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_the_process_at_any_moment(name: str) -> None:
    command = [sys.executable, "-c", WAITS.format(signal=name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "stopped\n"


def test_a_helper_ends_with_its_parent_even_if_the_parent_is_killed() -> None:
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
