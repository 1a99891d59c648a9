"""The service under strain, each part against server processes of their own.

    python -m benchmarks.service uploads             50 uploads of 60 MB at once, while a job runs
    python -m benchmarks.service kills --kills 30    kill -9 at random moments; --postgres URL for PostgreSQL
    python -m benchmarks.service two --postgres URL  24 jobs on two servers, one of which is killed in the middle
    python -m benchmarks.service schema --count 2000 schemathesis on the OpenAPI description

The network is a tiny one, except in `uploads`, whose job runs on the shipped weights.
The exit code is 1 where a limit is broken.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from sqlalchemy import create_engine, text

from src.api.client import InferenceClient, ServiceError
from src.files import shipped
from tests.api_service import JOBS, free_port, nifti, served
from tests.small_scans import chest, save_nifti

__all__ = ["OPEN", "QUICK"]

MEMORY, HEALTH = 2**30, 0.1  # bytes and seconds that the server must stay below
LARGE = 60_000_000
QUICK = "inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false}"
OPEN: dict[str, Any] = {
    "PIVOT_SUBMISSIONS_PER_MINUTE": "1000000",
    "PIVOT_QUEUED_JOBS": "1000000",
    "PIVOT_UPLOADS_PER_KEY": "100",
}


def uploads(folder: Path, count: int) -> bool:
    """Many large uploads at once: each accepted or told to wait, the server small and quick in the meantime."""
    large = folder / "large.nii"
    large.write_bytes(nifti() + _chance(0).randbytes(LARGE - len(nifti())))
    long = save_nifti(chest()[0], folder / "chest.nii")
    variables: dict[str, Any] = {
        "PIVOT_CHECKPOINT": str(shipped("checkpoints/best_model.pth")),
        "PIVOT_UPLOADS_PER_KEY": "8",
    }
    with served(folder, **variables) as (address, server):
        with InferenceClient(address) as client:
            number = client.submit_inference(long)
            while client.job(number)["status"] == "queued":
                time.sleep(0.2)
        stop, health, memory = threading.Event(), list[float](), [0]
        watch = threading.Thread(target=_watch, args=(address, server.pid, stop, health, memory))
        watch.start()
        answers = asyncio.run(_upload_all(address, large, count))
        with InferenceClient(address) as client:
            busy = client.job(number)["status"]
        stop.set()
        watch.join()
    statuses = Counter(answer.status_code for answer in answers)
    told = all(answer.status_code == 202 or "retry-after" in answer.headers for answer in answers)
    p99 = float(np.percentile(health, 99))
    print(f"{count} uploads of {LARGE / 1e6:.0f} MB: {dict(statuses)}, each with Retry-After where refused: {told}")
    print(f"server memory at most {memory[0] / 2**20:.0f} MiB; the long job was {busy} at the end")
    print(
        f"/healthz {len(health)} times: median {np.median(health) * 1000:.0f} ms, 99th percentile {p99 * 1000:.0f} ms"
    )
    return statuses.keys() <= {202, 429, 503} and told and memory[0] < MEMORY and p99 < HEALTH


async def _upload_all(address: str, path: Path, count: int) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def send() -> httpx.Response:
            with path.open("rb") as file:
                return await client.post(JOBS, files={"file": ("large.nii", file)})

        return await asyncio.gather(*(send() for _ in range(count)))


def _chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - keeps no secret


def _watch(address: str, pid: int, stop: threading.Event, health: list[float], memory: list[int]) -> None:
    process = psutil.Process(pid)
    with httpx.Client(base_url=address, timeout=60) as client:
        while not stop.wait(0.02):
            start = time.perf_counter()
            client.get("/healthz").raise_for_status()
            health.append(time.perf_counter() - start)
            memory[0] = max(memory[0], process.memory_info().rss)


def kills(folder: Path, count: int, postgres: str | None) -> bool:
    """Kill server, worker and database connections at random; every accepted job must end once, with its results."""
    chance = _chance(count)
    (folder / "scan.nii").write_bytes(nifti(64))
    (folder / "quick.yaml").write_text(QUICK)
    port, variables = free_port(), {**OPEN, "PIVOT_LEASE_SECONDS": "2", "PIVOT_ATTEMPTS": "50"}
    if postgres:
        variables["PIVOT_DATABASE_URL"] = postgres
    accepted: list[str] = []
    victims = ["server", "worker", *(["connections"] if postgres else [])]
    done = Counter[str]()
    while sum(done.values()) < count:
        with served(folder, port, **variables) as (address, server), InferenceClient(address) as client:
            while sum(done.values()) < count and server.poll() is None:
                accepted += [client.submit_inference(folder / "scan.nii", folder / "quick.yaml") for _ in range(2)]
                _some_moment(client, accepted[-2], chance)
                victim = chance.choice(victims)
                if _kill(victim, server, postgres):
                    done[victim] += 1
    print(f"killed: {dict(done)}; {len(accepted)} jobs accepted")
    with served(folder, port, **variables) as (address, _), InferenceClient(address) as client:
        ended = Counter(_ending(client, number, folder) for number in accepted)
        again = sum(client.job(number)["attempts"] > 1 for number in accepted)
    print(f"how they ended: {dict(ended)}; {again} of them were cut off and done again")
    return all(ending.startswith("once") for ending in ended)


def two(folder: Path, count: int, postgres: str) -> bool:
    """Jobs by two servers, with a worker each, on one PostgreSQL and one data folder; one is killed with its worker."""
    (folder / "scan.nii").write_bytes(nifti(64))
    (folder / "quick.yaml").write_text(QUICK)
    variables = {**OPEN, "PIVOT_LEASE_SECONDS": "5", "PIVOT_DATABASE_URL": postgres}
    with (
        served(folder, **variables) as (one, first),
        served(folder, **variables) as (other, _),
        InferenceClient(one) as there,
        InferenceClient(other) as here,
    ):
        clients = [(there, here)[turn % 2] for turn in range(count)]
        accepted = [client.submit_inference(folder / "scan.nii", folder / "quick.yaml") for client in clients]
        while sum(here.job(number)["status"] == "completed" for number in accepted) < count // 3:
            time.sleep(0.2)
        for process in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
            process.kill()
        ended = Counter(_ending(here, number, folder) for number in accepted)
        again = sum(here.job(number)["attempts"] > 1 for number in accepted)
    print(f"{count} jobs on two servers, one killed in the middle: {dict(ended)}; {again} were cut off and done again")
    return ended.keys() == {"once"} and sum(ended.values()) == count


def _some_moment(client: InferenceClient, number: str, chance: random.Random) -> None:
    """Wait for a random time: every other time in the middle of the job, which takes about two seconds."""
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 12))
        return
    while client.job(number)["status"] == "queued":
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 2))


def _kill(victim: str, server: "subprocess.Popen[bytes]", postgres: str | None) -> bool:
    if victim == "server":
        server.kill()
        server.wait()
        return True
    if victim == "worker":
        workers = psutil.Process(server.pid).children()
        for worker in workers:
            worker.kill()
        return bool(workers)
    engine = create_engine(str(postgres))
    with engine.begin() as connection:
        others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = USER"
        )
        killed = len(connection.execute(text(others)).all())
    engine.dispose()
    return killed > 0


def _ending(client: InferenceClient, number: str, folder: Path) -> str:
    """`once` where the job has its results, and nothing is left of attempts that were cut off; else what is wrong."""
    try:
        report = client.wait_for_results(number, timeout=300)
    except (TimeoutError, ServiceError) as error:
        return str(error)
    parts = list((folder / "data" / "jobs" / number).iterdir())
    return "once" if report["scan_id"] == "scan" and len(parts) == 1 else "once, with leftovers for the next sweep"


def schema(folder: Path, count: int) -> bool:
    """Requests made from the OpenAPI description, sensible and not: none may be answered with 5xx."""
    with served(folder, PIVOT_DEVICES="none", PIVOT_UPLOADS="100", **OPEN) as (address, _):
        described = httpx.get(f"{address}/openapi.json").json()
        operations = sum(len(methods) for methods in described["paths"].values())
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
        command += ["--checks", "not_a_server_error", "--max-examples", str(-(-count // operations)), "--seed", "1"]
        command += ["--phases", "examples,coverage,fuzzing,stateful", "--no-color"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        figures = httpx.get(f"{address}/metrics").text
    print("\n".join(line for line in done.stdout.splitlines() if line.strip())[-2500:])
    answered = [line for line in figures.splitlines() if line.startswith("pivot_http_requests_total")]
    total = sum(float(line.split()[-1]) for line in answered)
    broken = [line for line in answered if 'status="5' in line]
    print(f"{total:.0f} requests answered; with 5xx: {broken or 'none'}")
    return done.returncode == 0 and not broken and total >= count


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("uploads", "kills", "two", "schema"))
    parser.add_argument("--count", type=int, help="uploads, jobs or cases")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--postgres", help="postgresql+psycopg://user:password@host/database, empty")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pivot-benchmark-") as name:
        folder = Path(name)
        match options.part:
            case "uploads":
                good = uploads(folder, options.count or 50)
            case "kills":
                good = kills(folder, options.kills, options.postgres)
            case "two":
                good = two(folder, options.count or 24, str(options.postgres))
            case _:
                good = schema(folder, options.count or 2000)
        if not good:
            print((folder / "server.log").read_text()[-5000:])
    print(json.dumps({"part": options.part, "good": good, "load": os.getloadavg()}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
