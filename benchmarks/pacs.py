"""The PACS listener under attack: poisonous objects, kills and a full disk, among good studies.

    python -m benchmarks.pacs                 100 poisonous objects, 5 kills, on a tmpfs of 200 MB (needs root)
    python -m benchmarks.pacs --disk FOLDER   on a small disk of yours, which is filled to the last byte

The listener runs in a process of its own with a tiny network, and sends its results to an archive. A sender sends each
study until an association has ended well in which every instance was acknowledged or refused; in the meantime the
listener is killed (SIGKILL) and started again. Then its disk fills up while one study waits for its run and another one
is sent. In the end, of every study of which anything was acknowledged, either the run has finished once and the archive
has its results once, or it was refused for one reason. The exit code is 1 where that is not so.
"""

import argparse
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pacs_objects import POISONS, Study, good, poisoned
from tests.pacs import Archive, archive, audit_of, free_port, send_bytes, settings, transfer, until
from tests.small_scans import tiny_checkpoint

PATIENCE = 3600.0  # seconds, on a busy machine
SUCCESS, REFUSED = 0x0000, 0xC000
GOOD, DISK, SENDERS = 25, "200m", 3
ENDS = {"run finished": "run", "study refused": "refused", "study set aside": "set aside"}


class Listener:
    """The listener in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path, disk: Path, kept: Archive) -> None:
        root = Path(__file__).resolve().parents[1]
        self.port, self.file, self.log, self.root = free_port(), folder / "pacs.yaml", folder / "listener.log", root
        inference = folder / "quick.yaml"
        inference.write_text("inference: {patch_size: [32, 32, 32], second_look: false}\n")
        peer = {"name": "archive", "kind": "dicom", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": kept.port}
        self.config = settings(
            folder,
            root,
            listen={"port": self.port},
            spool=disk / "spool",
            completeness={"quiet_seconds": 2, "interrupted_seconds": 600},
            inference={"checkpoint": tiny_checkpoint(folder / "tiny.pth"), "config": inference, "device": "cpu"},
            results=["sr"],
            destinations=[peer],
        )
        self.file.write_text(yaml.safe_dump(self.config.model_dump(mode="json", exclude_none=True)))
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        before = len(self.events("started"))
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "src.pacs.listener", "--config", str(self.file)]
            self.process = subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log)
        until(lambda: len(self.events("started")) > before)

    def kill(self) -> None:
        """Kill it, and start it again."""
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> int:
        """End it by SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(120)

    def events(self, event: str | None = None, **facts: object) -> list[dict[str, Any]]:
        """The lines of the audit trail of this kind, with these facts."""
        return audit_of(self.config, event, **facts)

    def is_idle(self) -> bool:
        """Whether all that arrived is run, and the results are sent."""
        folders = (self.config.spool / name for name in ("incoming", "work", "outbox"))
        return not any(place.is_dir() for folder in folders for place in folder.iterdir())


class Sender:
    """Sends studies, each until all instances are acknowledged or refused; `answers` are the last ones of each."""

    def __init__(self, listener: Listener) -> None:
        self.listener, self.answers = listener, dict[str, dict[str, int]]()

    def send(self, study: Study) -> None:
        """Send a study until every instance is acknowledged or refused."""
        while self.send_once(study) - {SUCCESS, REFUSED}:
            time.sleep(0.2)

    def send_once(self, study: Study) -> set[int]:
        """Send all instances once; returns the statuses, with -1 where there is none or the association broke off."""
        answers = self.answers[study.uid] = dict.fromkeys(study.instances, -1)
        with suppress(Exception), transfer(self.listener.port) as association:
            association.dimse_timeout = association.network_timeout = 60
            for uid in study.instances if association.is_established else []:
                answers[uid] = send_bytes(association, study.instances[uid], uid)
                if answers[uid] < 0:
                    break
        return set(answers.values()) | (set() if association.is_released else {-1})

    def all(self, studies: list[Study]) -> None:
        """Several senders at once."""
        todo = queue.SimpleQueue[Study]()
        for study in studies:
            todo.put(study)

        def work() -> None:
            with suppress(queue.Empty):
                while True:
                    self.send(todo.get_nowait())

        threads = [threading.Thread(target=work) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def attack(listener: Listener, sender: Sender, studies: list[Study], kills: int, chance: random.Random) -> int:
    """Send all studies, and kill the listener now and then; returns how often that was within a run."""
    sending = threading.Thread(target=sender.all, args=(studies,))
    sending.start()
    within = 0
    for number in range(kills):
        if number % 2:
            time.sleep(chance.uniform(0.2, 3))
        else:
            seen = len(listener.events("run started"))
            until(partial(_more, listener, seen))
            time.sleep(chance.uniform(0, 0.2))
        begun, ended = len(listener.events("run started")), len(listener.events("run finished"))
        listener.kill()
        within += begun > ended
    sending.join()
    until(listener.is_idle, PATIENCE)
    return within


def _more(listener: Listener, seen: int) -> bool:
    return len(listener.events("run started")) > seen


def fill_up(listener: Listener, sender: Sender, disk: Path, seed: int) -> bool:
    """The disk is full while a study waits for its run, and while another is sent; then there is room again."""
    waiting, late = good(seed), good(seed + 1)
    sender.send(waiting)
    full = disk / "full"
    with full.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))
    with full.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0")
    statuses = sender.send_once(late)
    time.sleep(5)
    kept = listener.config.spool.glob(f"*/{waiting.uid}/*/*.dcm")
    intact = len(list(kept)) == len(waiting.instances) or bool(listener.events("run finished", study=waiting.uid))
    full.unlink()
    sender.send(late)
    until(lambda: listener.events("run finished", study=late.uid), PATIENCE)
    until(lambda: listener.is_idle() and listener.events("run finished", study=waiting.uid), PATIENCE)
    print(f"full disk: C-STORE answered {sorted(map(hex, statuses))}; the study that waited stayed: {intact}")
    return statuses == {0xA700} and intact


def ending(listener: Listener, kept: Archive, sender: Sender, study: Study) -> str:
    """How a study ended: once, as it must, or what is wrong."""
    acknowledged = sum(status == SUCCESS for status in sender.answers[study.uid].values())
    refused = len(sender.answers[study.uid]) - acknowledged
    ends = Counter(ENDS[line["event"]] for line in listener.events(study=study.uid) if line["event"] in ENDS)
    results = Counter(str(one.SOPInstanceUID) for one in kept.of(study.uid))
    if not acknowledged:
        return "not taken" if not ends else f"WRONG: not taken, but {dict(ends)}"
    if study.kind == "good" and (refused or ends != {"run": 1}):
        return f"WRONG: {refused} refused instances, {dict(ends)}"
    if sum(ends.values()) != 1 or len(results) != ends["run"]:
        return f"WRONG: {dict(ends)}, {len(results)} results"
    if any(count > 1 for count in results.values()):
        return "WRONG: the archive has its results twice"
    return next(iter(ends))


def report(listener: Listener, kept: Archive, sender: Sender, studies: list[Study]) -> bool:
    """Print how the studies of each kind ended; whether all did as they must."""
    endings: dict[str, Counter[str]] = {}
    for study in studies:
        endings.setdefault(study.kind, Counter())[ending(listener, kept, sender, study)] += 1
    for kind, counts in endings.items():
        print(f"  {kind:32} {', '.join(f'{count} {name}' for name, count in counts.items())}")
    total = sum(endings.values(), Counter[str]())
    print(f"all: {dict(total)}; instances refused: {len(listener.events('instance refused'))}")
    return not any(name.startswith(("WRONG", "set aside")) for name in total)


def restart(listener: Listener) -> bool:
    """Whether the listener ends on SIGTERM, and a new one has nothing left to do and to tell."""
    code = listener.stop()
    lines = len(listener.events())
    listener.start()
    time.sleep(5)
    clean = [line["event"] for line in listener.events()[lines:]] == ["started"] and listener.is_idle()
    told = listener.log.read_text() + (listener.config.spool / "audit.jsonl").read_text()
    secret = "secret" in told.lower()
    errors = listener.events("error")
    print(f"SIGTERM: exit code {code}; restart clean: {clean}; errors of the service: {len(errors)}; names: {secret}")
    return code == 0 and clean and not secret and not errors and listener.stop() == 0


@contextmanager
def small_disk(folder: Path, given: Path | None) -> Iterator[Path]:
    """A disk that is soon full."""
    if given:
        yield given
        return
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=True)  # noqa: S607
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: S607


def main() -> int:
    """Attack, fill the disk, look at what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poison", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--disk", type=Path, help="a folder on a small disk of its own, which is empty")
    options = parser.parse_args()
    chance, start = random.Random(options.seed), time.monotonic()  # noqa: S311 - keeps no secret
    kinds = list(POISONS)
    studies = [poisoned(kinds[number % len(kinds)], options.seed * 10000 + number) for number in range(options.poison)]
    studies += [good(options.seed * 10000 + number) for number in range(GOOD)]
    chance.shuffle(studies)
    with (
        tempfile.TemporaryDirectory(prefix="pivot-benchmark-") as name,
        archive() as kept,
        small_disk(Path(name), options.disk) as disk,
    ):
        listener = Listener(Path(name), disk, kept)
        sender = Sender(listener)
        try:
            within = attack(listener, sender, studies, options.kills, chance)
            print(f"{options.poison} poisonous and {GOOD} good studies; {options.kills} kills, {within} within a run")
            full = fill_up(listener, sender, disk, options.seed * 10000 + GOOD)
            studies += [good(options.seed * 10000 + GOOD + number) for number in range(2)]
            ended = report(listener, kept, sender, studies)
            fine = restart(listener) and full and ended
        finally:
            listener.process.kill()
            listener.process.wait()
        if not fine:
            print(listener.log.read_text()[-5000:])
    print(json.dumps({"good": fine, "seconds": round(time.monotonic() - start), "load": os.getloadavg()}))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
