"""Received instances on disk, by study and series, from their arrival to the end of their run.

    partial/                          being written, or being removed
    incoming/<study>/<series>/*.dcm   arrived; `.open-*` beside them while an association is sending,
                                      and after one that was interrupted
    work/<study>/<series>/*.dcm       taken for a run; after a restart it is run again
    work/<study>/.attempts            a letter for each run that did not come to its end: s started, f failed
    aside/<study>/<series>/*.dcm      set aside: their runs did not come to an end too often; kept for the operator
    done/<study>.json                 the instances of each series that was run
    done/<study>.short.json           those of each series that was removed, as it was not whole

Files appear by rename, and a study is taken, set aside and removed by rename, so that a crash at any moment leaves no
half of either.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import BadOutput, BadScan
from ..files import whole_file, writable_folder

__all__ = ["Attempts", "Spool", "check_uid", "instances", "series_in"]

UID = re.compile(r"(?=.{1,64}$)\d+(\.\d+)*")
ATTEMPTS = ".attempts"
STARTED, FAILED = b"s", b"f"
INSTANCE = ".dcm"
FULL = (errno.ENOSPC, errno.EDQUOT)
# What is left free for results and the audit trail: a twentieth of the disk, but so many bytes.
LEAST_FREE, MOST_FREE = 16 * 2**20, 2**30
MEASURING = 5.0  # seconds between two looks at how much the spool holds, once it is taken to be full


class Attempts(NamedTuple):
    """The runs of a study that did not come to their end."""

    cut: int  # the listener ended in the meantime: it was stopped or killed, perhaps by what the study took
    failed: int  # the run ended its own process, or took more memory than there is


class Spool:
    """The folders below `root`, which are made if need be; images take at most `most` bytes of it.

    Raises:
        BadOutput: `root` cannot be written to, for another reason than that the disk is full.
    """

    def __init__(self, root: Path, most: float = float("inf")) -> None:
        root = root.absolute()  # what reads a study does so from another folder
        if not root.exists():
            writable_folder(root).chmod(0o700)  # patients' images
        self.incoming, self.work, self.aside, self.outbox, self._partial, self._done = (
            _usable(root / name) for name in ("incoming", "work", "aside", "outbox", "partial", "done")
        )
        self._moving, self._counting = threading.Lock(), threading.Lock()
        for leftover in self._partial.iterdir():
            _remove(leftover)
        self._most, self._reserve = most, min(max(shutil.disk_usage(root).total // 20, LEAST_FREE), MOST_FREE)
        self._held, self._measured = self._measure(), time.monotonic()

    def check_room(self, size: int) -> None:
        """Make room for so many bytes more.

        Raises:
            OSError: the spool would hold more than it may, or too little of the disk would be left for results.
        """
        if shutil.disk_usage(self.incoming).free < self._reserve + size:
            raise OSError(errno.ENOSPC, "the disk is full, but for what results and the audit trail may need")
        with self._counting:
            if self._held + size > self._most and time.monotonic() > self._measured + MEASURING:
                self._held, self._measured = self._measure(), time.monotonic()
            if self._held + size > self._most:
                raise OSError(errno.EDQUOT, "the spool is full (max_spool_gb)")
            self._held += size

    def _measure(self) -> int:
        return sum(_size(study) for place in (self.incoming, self.work, self.aside) for study in place.iterdir())

    def add(self, content: bytes, study: str, series: str, instance: str, association: str) -> None:
        """Keep an instance that `association` sends; it is on disk when this returns.

        Raises:
            BadScan: a UID is no UID, and so no name for a file.
            OSError: the disk is full, nearly full, or gone.
        """
        for name, uid in (("Study", study), ("Series", series), ("SOP", instance)):
            check_uid(f"its {name}InstanceUID", uid)
        self.check_room(len(content))
        draft, opened = self._partial / secrets.token_hex(16), list[int]()
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with self._moving:
                folder = self.incoming / study / series
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f".open-{association}").touch()
                draft.replace(folder / f"{instance}{INSTANCE}")
                opened += [os.open(place, os.O_RDONLY) for place in (folder, folder.parent, self.incoming)]
            for place in opened:  # the names, too, survive a loss of power
                os.fsync(place)
        finally:
            for place in opened:
                os.close(place)
            with suppress(OSError):
                draft.unlink()

    def close(self, association: str, live: set[str], study: str | None = None) -> None:
        """Note that an association sent a study, or all of its studies, to the end; `live` are the others.

        It makes up for associations that broke off while they sent the same series.
        """
        with self._moving:
            studies = _studies(self.incoming) if study is None else [self.incoming / study]
            for series in (series for place in studies if place.exists() for series in series_in(place)):
                if (series / f".open-{association}").exists():
                    for marker in series.glob(".open-*"):
                        if marker.name.removeprefix(".open-") not in live:
                            marker.unlink()

    def take(self, study: str) -> Path:
        """Take an arrived study for a run; instances that come later make a new one."""
        with self._moving:
            return (self.incoming / study).rename(self.work / study)

    def waiting(self) -> list[Path]:
        """The folders of the studies that arrive, or have arrived."""
        with self._moving:
            return [folder for folder in _studies(self.incoming) if not (self.work / folder.name).exists()]

    def taken(self) -> list[Path]:
        """The folders of the studies that were taken and not run to the end, those last that were tried often."""
        return sorted(_studies(self.work), key=lambda study: sum(self.attempts(study)))

    def attempts(self, study: Path) -> Attempts:
        """How often a taken study was tried."""
        try:
            content = (study / ATTEMPTS).read_bytes()
        except OSError:  # there is none, or it cannot be read, which the next run will tell
            return Attempts(0, 0)
        return Attempts(content.count(STARTED), content.count(FAILED))

    def begin(self, study: Path) -> None:
        """Note, on disk, that a run begins; `finish`, `set_aside` or `stop` say how it ended."""
        with (study / ATTEMPTS).open("ab") as file:
            file.write(STARTED)
            file.flush()
            os.fsync(file.fileno())

    def stop(self, study: Path, *, failed: bool) -> None:
        """Note that the run that began failed, or that it does not count; this needs no room on the disk."""
        with suppress(FileNotFoundError), (study / ATTEMPTS).open("r+b") as file:
            content = file.read()
            file.seek(max(0, len(content) - 1))
            file.write(FAILED) if failed else file.truncate()

    def set_aside(self, study: Path) -> Path:
        """Keep a taken study where nothing runs it; returns the place, a new one for each."""
        place, number = self.aside / study.name, 1
        while place.exists():
            number += 1
            place = self.aside / f"{study.name}-{number}"
        (study / ATTEMPTS).unlink(missing_ok=True)  # so that it is as new when it is moved back
        return study.rename(place)

    def finish(self, study: Path) -> None:
        """Remove a taken study: all of it at once, so that no part of it is ever run as if it were the whole."""
        size = _size(study)
        gone = self._partial / secrets.token_hex(16)
        study.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        with self._counting:
            self._held = max(0, self._held - size)

    def run_name(self, series: Path) -> str:
        """A name for the run of just these instances of a series, the same for each attempt."""
        names = [file.stem for file in instances(series)]
        return hashlib.sha256(" ".join([series.parent.name, series.name, *names]).encode()).hexdigest()[:32]

    def was_run(self, series: Path) -> bool:
        """Whether all instances of a series were part of an earlier run."""
        earlier = self._read(series.parent.name).get(series.name, [])
        return {file.stem for file in instances(series)} <= set(earlier)

    def record_run(self, series: Path) -> None:
        """Remember the instances of a series that was run."""
        study = series.parent.name
        self._write(study, {**self._read(study), series.name: [file.stem for file in instances(series)]})

    def record_short(self, series: Path) -> None:
        """Remember the instances of a series that is not whole, before they are removed."""
        name = f"{series.parent.name}.short"
        earlier = self._read(name)
        known = {*earlier.get(series.name, []), *(file.stem for file in instances(series))}
        self._write(name, {**earlier, series.name: sorted(known)})

    def missing(self, series: Path) -> int:
        """How many instances of a series came before, and were removed: without them it is not whole."""
        earlier = self._read(f"{series.parent.name}.short").get(series.name, [])
        return len(set(earlier) - {file.stem for file in instances(series)})

    def _write(self, name: str, record: dict[str, list[str]]) -> None:
        with whole_file(self._done / f"{name}.json") as draft:
            draft.write_text(json.dumps(record))

    def _read(self, name: str) -> dict[str, list[str]]:
        """The instances of each series of a study that are remembered; none where the record is damaged."""
        try:
            record = json.loads((self._done / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(record, dict):
            return {}
        return {uid: known for uid, known in record.items() if isinstance(known, list)}


def check_uid(name: str, uid: str) -> str:
    """The UID, which may be part of a path or a URL.

    Raises:
        BadScan: it is missing or malformed.
    """
    if not UID.fullmatch(uid):
        msg = f"{name} is missing or malformed: a UID is made of up to 64 digits and single dots"
        raise BadScan(msg)
    return uid


def series_in(study: Path) -> list[Path]:
    """The folders of the series of a study; unlike `glob`, this takes no fault of the machine for an empty folder."""
    with os.scandir(study) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return [study / name for name in names]


def instances(series: Path) -> list[Path]:
    """The files of a series, by name; raises `OSError` where the folder cannot be read."""
    with os.scandir(series) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(INSTANCE))
    return [series / name for name in names]


def _studies(folder: Path) -> list[Path]:
    """The folders of studies in `folder`; what else lies there is none of ours."""
    return [path for path in series_in(folder) if UID.fullmatch(path.name)]


def _size(folder: Path) -> int:
    """Bytes of the instances in a folder, at whatever depth, but for those that go in the meantime."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118 - of many thousands of files
    return total


def _usable(folder: Path) -> Path:
    """The folder, made if need be; one on a full disk serves, as room may come."""
    try:
        return writable_folder(folder)
    except BadOutput as error:
        cause = error.__cause__
        if folder.is_dir() and isinstance(cause, OSError) and cause.errno in FULL:
            return folder
        raise


def _remove(path: Path) -> None:
    """The file or folder is gone, or as much of it as can be removed now; the next start tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
