"""Runs commands, measures them, and keeps what is finished, so that an interrupted benchmark can continue."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from src.files import write_json

__all__ = ["ROOT", "Finished", "Run", "Used", "measure", "pivot", "search"]

ROOT = Path(__file__).resolve().parents[1]
GIB_IN_KIB = 2**20
Run: TypeAlias = dict[str, Any]


class Used(NamedTuple):
    """What commands used."""

    seconds: float
    processor: float  # seconds, of all cores
    gib: float  # the highest memory of a command's largest process, added up over the commands


def measure(
    commands: Sequence[Sequence[str | Path]], environment: Mapping[str, str] | None = None, cores: int | None = None
) -> Used:
    """Run commands at the same time, on all cores or on the first `cores`, and wait for all of them.

    The program ends with an error if one of them fails.
    """
    start = time.perf_counter()
    with _on_cores(cores):
        running = [
            subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL)
            for command in commands
        ]
    processor = kib = 0.0
    for process in running:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        processor, kib = processor + used.ru_utime + used.ru_stime, kib + used.ru_maxrss
    seconds = time.perf_counter() - start
    for process in running:
        if process.returncode:
            sys.exit(f"error: exit code {process.returncode} from: {' '.join(map(str, process.args))}")  # type: ignore[arg-type]
    return Used(seconds, processor, kib / GIB_IN_KIB)


@contextmanager
def _on_cores(cores: int | None) -> Iterator[None]:
    """Processes that start inside use only the first `cores` of this process's cores."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def pivot(folder: Path, speed: str | None = None) -> list[str | Path]:
    """PIVOT's command with a preset, for which it writes a configuration into the folder. None: the default."""
    command: list[str | Path] = [sys.executable, "-m", "src.inference.main", "--progress", "none"]
    if speed is None:
        return command
    config = folder / f"{speed}.yaml"
    config.write_text(f"inference: {{speed: {speed}}}\n")
    return [*command, "--config", config]


def search(
    command: Sequence[str | Path],
    scan: Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    cores: int | None = None,
) -> Run:
    """Search a scan by a command of PIVOT, or one with the same options that writes `run.json` (`benchmarks.peers`).

    The result holds seconds (`wall`, `processor`, `stages`), `gib`, and the marks `found` (LPS in mm, confidence).
    """
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    used = measure([[*command, "--input", scan, "--output", out]], environment, cores)
    own = out / "run.json"
    run = json.loads(own.read_text()) if own.is_file() else _report(out)
    run["stages"] = {"start": used.seconds - sum(run["stages"].values()), **run["stages"]}
    return {"wall": used.seconds, "processor": used.processor, "gib": used.gib, **run}


def _report(folder: Path) -> Run:
    (file,) = folder.glob("*_detections.json")
    report = json.loads(file.read_text())
    about = {key: report["metadata"][key] for key in ("windows", "searched", "precision", "engine")}
    marks = [*report["detections"], *report["masses"]]
    found = [(mark["coordinates_lps"], mark["confidence"]) for mark in marks]
    return {"stages": report["metadata"]["timings_seconds"], **about, "found": found}


class Finished:
    """The finished runs in a JSON file. Runs of other code, other weights or another machine are refused."""

    def __init__(self, file: Path) -> None:
        self.file, self.about = file, _about()
        self.runs: dict[str, Run] = {}
        if file.is_file():
            kept = json.loads(file.read_text())
            if kept["about"] != self.about:
                sys.exit(f"error: {file} holds runs of other code or another machine: give another --output")
            self.runs = kept["runs"]
            print(f"{file} holds {len(self.runs)} finished runs")

    def run(self, name: str, work: Callable[[], Run]) -> Run:
        """The finished run of this name, or a new one, which is printed and kept."""
        if name not in self.runs:
            self.runs[name] = work()
            self.keep()
            print(f"{name}: {_told(self.runs[name])}", flush=True)
        return self.runs[name]

    def keep(self, **more: object) -> None:
        """Write the runs, and `more` beside them."""
        write_json({"about": self.about, **more, "runs": self.runs}, self.file)


def _told(run: Run) -> str:
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in run.items()}
    rounded.pop("found", None)
    if "stages" in rounded:
        rounded["stages"] = {stage: round(seconds, 2) for stage, seconds in run["stages"].items()}
    return json.dumps(rounded)


def _about() -> dict[str, Any]:
    """The weights, the code and the machine."""
    import torch

    from src.model.checkpoint import load_model

    model = load_model()
    code = hashlib.sha256()
    for file in sorted([*(ROOT / "src").rglob("*.py"), ROOT / "benchmarks" / "peers.py"]):
        code.update(file.read_bytes())
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "model": f"{model.about.name} {model.sha256[:12]}",
        "code": code.hexdigest()[:12],
        "processor": names[0].partition(": ")[2] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
