"""Received instances on disk, by study and series, from their arrival to the end of their run.

    partial/                          being written, or being removed
    incoming/<study>/<series>/*.dcm   arrived; `.open-*` beside them while an association is sending,
                                      and after one that was interrupted
    work/<study>/<series>/*.dcm       taken for a run; after a restart it is run again
    work/<study>/.attempts            a letter for each run that did not finish: s started, f failed
    aside/<study>/<series>/*.dcm      set aside after too many unfinished runs; kept for the operator
    done/<study>.json                 the instances of each series that was run
    done/<study>.short.json           the instances of each incomplete series that was removed

Files are created, and studies are taken, set aside and removed, by rename. A crash never leaves half a file or half a
study.
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
# Space kept free for results and the audit trail: a twentieth of the disk, at most this many bytes.
LEAST_FREE, MOST_FREE = 16 * 2**20, 2**30
MEASURING = 5.0  # seconds between measurements of a full spool


class Attempts(NamedTuple):
    """The runs of a study that did not finish."""

    cut: int  # runs during which the listener ended: it was stopped or killed, perhaps because of the study
    failed: int  # runs that ended their own process, or lacked memory


class Spool:
    """Creates the missing folders below `root`. Images take at most `most` bytes of it.

    Raises:
        BadOutput: `root` is not writable. A full disk is no error here.
    """

    def __init__(self, root: Path, most: float = float("inf")) -> None:
        root = root.absolute()  # the confined reader must not reach other studies
        if not root.exists():
            writable_folder(root).chmod(0o700)  # contains patients' images
        self.incoming, self.work, self.aside, self.outbox, self._partial, self._done = (
            _usable(root / name) for name in ("incoming", "work", "aside", "outbox", "partial", "done")
        )
        self._moving, self._counting = threading.Lock(), threading.Lock()
        for leftover in self._partial.iterdir():
            _remove(leftover)
        self._most, self._reserve = most, min(max(shutil.disk_usage(root).total // 20, LEAST_FREE), MOST_FREE)
        self._held, self._measured = self._measure(), time.monotonic()

    def check_room(self, size: int) -> None:
        """Make room for `size` more bytes.

        Raises:
            OSError: the spool would exceed its limit, or leave too little of the disk for results.
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
        """Store an instance from `association`. It is on disk on return.

        Raises:
            BadScan: a UID is malformed, and unsafe as a file name.
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
            for place in opened:  # the names also survive a power failure
                os.fsync(place)
        finally:
            for place in opened:
                os.close(place)
            with suppress(OSError):
                draft.unlink()

    def close(self, association: str, live: set[str], study: str | None = None) -> None:
        """Note that an association has sent a study, or all its studies, completely. `live` are the other associations.

        This completes series whose earlier associations were interrupted.
        """
        with self._moving:
            studies = _studies(self.incoming) if study is None else [self.incoming / study]
            for series in (series for place in studies if place.exists() for series in series_in(place)):
                if (series / f".open-{association}").exists():
                    for marker in series.glob(".open-*"):
                        if marker.name.removeprefix(".open-") not in live:
                            marker.unlink()

    def take(self, study: str) -> Path:
        """Take an arrived study for a run. Later instances start a new study."""
        with self._moving:
            return (self.incoming / study).rename(self.work / study)

    def waiting(self) -> list[Path]:
        """The folders of the studies that are arriving or have arrived."""
        with self._moving:
            return [folder for folder in _studies(self.incoming) if not (self.work / folder.name).exists()]

    def taken(self) -> list[Path]:
        """The folders of the studies that were taken and not finished, sorted by the number of attempts."""
        return sorted(_studies(self.work), key=lambda study: sum(self.attempts(study)))

    def attempts(self, study: Path) -> Attempts:
        """How often a taken study was tried."""
        try:
            content = (study / ATTEMPTS).read_bytes()
        except OSError:  # missing or unreadable; the next run reports it
            return Attempts(0, 0)
        return Attempts(content.count(STARTED), content.count(FAILED))

    def begin(self, study: Path) -> None:
        """Record on disk that a run begins. `finish`, `set_aside` or `stop` record its end."""
        with (study / ATTEMPTS).open("ab") as file:
            file.write(STARTED)
            file.flush()
            os.fsync(file.fileno())

    def stop(self, study: Path, *, failed: bool) -> None:
        """Record that the run failed, or that it does not count. Needs no disk space."""
        with suppress(FileNotFoundError), (study / ATTEMPTS).open("r+b") as file:
            content = file.read()
            file.seek(max(0, len(content) - 1))
            file.write(FAILED) if failed else file.truncate()

    def set_aside(self, study: Path) -> Path:
        """Move a taken study to a new place from which nothing is run. Return that place."""
        place, number = self.aside / study.name, 1
        while place.exists():
            number += 1
            place = self.aside / f"{study.name}-{number}"
        (study / ATTEMPTS).unlink(missing_ok=True)  # moved back, it starts as new
        return study.rename(place)

    def finish(self, study: Path) -> None:
        """Remove a taken study in one step, so that a part of it is never run as the whole."""
        size = _size(study)
        gone = self._partial / secrets.token_hex(16)
        study.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        with self._counting:
            self._held = max(0, self._held - size)

    def run_name(self, series: Path) -> str:
        """A name for the run of exactly these instances of a series, the same for each attempt."""
        names = [file.stem for file in instances(series)]
        return hashlib.sha256(" ".join([series.parent.name, series.name, *names]).encode()).hexdigest()[:32]

    def was_run(self, series: Path) -> bool:
        """Whether all instances of a series were part of an earlier run."""
        earlier = self._read(series.parent.name).get(series.name, [])
        return {file.stem for file in instances(series)} <= set(earlier)

    def record_run(self, series: Path) -> None:
        """Record the instances of a series that was run."""
        study = series.parent.name
        self._write(study, {**self._read(study), series.name: [file.stem for file in instances(series)]})

    def record_short(self, series: Path) -> None:
        """Record the instances of an incomplete series before they are removed."""
        name = f"{series.parent.name}.short"
        earlier = self._read(name)
        known = {*earlier.get(series.name, []), *(file.stem for file in instances(series))}
        self._write(name, {**earlier, series.name: sorted(known)})

    def missing(self, series: Path) -> int:
        """The number of instances of a series that arrived earlier and were removed. Without them it is incomplete."""
        earlier = self._read(f"{series.parent.name}.short").get(series.name, [])
        return len(set(earlier) - {file.stem for file in instances(series)})

    def _write(self, name: str, record: dict[str, list[str]]) -> None:
        with whole_file(self._done / f"{name}.json") as draft:
            draft.write_text(json.dumps(record))

    def _read(self, name: str) -> dict[str, list[str]]:
        """The recorded instances of each series of a study; empty if the record is damaged."""
        try:
            record = json.loads((self._done / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(record, dict):
            return {}
        return {uid: known for uid, known in record.items() if isinstance(known, list)}


def check_uid(name: str, uid: str) -> str:
    """A UID that is safe in a path or a URL.

    Raises:
        BadScan: the UID is missing or malformed.
    """
    if not UID.fullmatch(uid):
        msg = f"{name} is missing or malformed: a UID is made of up to 64 digits and single dots"
        raise BadScan(msg)
    return uid


def series_in(study: Path) -> list[Path]:
    """The folders of the series of a study. Unlike `glob`, it raises on a failure of the machine."""
    with os.scandir(study) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return [study / name for name in names]


def instances(series: Path) -> list[Path]:
    """The files of a series, by name. Raises `OSError` if the folder cannot be read."""
    with os.scandir(series) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(INSTANCE))
    return [series / name for name in names]


def _studies(folder: Path) -> list[Path]:
    """The folders of studies in `folder`. Other names are ignored."""
    return [path for path in series_in(folder) if UID.fullmatch(path.name)]


def _size(folder: Path) -> int:
    """Bytes of the instances in a folder and below. Files that vanish meanwhile are skipped."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118 - of many thousands of files
    return total


def _usable(folder: Path) -> Path:
    """Create the folder if it is missing. A full disk is no error: it may get room later."""
    try:
        return writable_folder(folder)
    except BadOutput as error:
        cause = error.__cause__
        if folder.is_dir() and isinstance(cause, OSError) and cause.errno in FULL:
            return folder
        raise


def _remove(path: Path) -> None:
    """Remove the file or folder, as far as possible now. The next start tries the rest again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
