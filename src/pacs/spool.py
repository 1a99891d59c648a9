"""Received instances on disk, by study and series, from their arrival to the end of their run.

    partial/                          being written
    incoming/<study>/<series>/*.dcm   arrived; `.open-*` beside them while an association is sending,
                                      and after one that was interrupted
    work/<study>/<series>/*.dcm       taken for a run; after a restart it is run again
    done/<study>.json                 the instances of each series that was run

Files appear by rename, and a study is taken by rename, so that a crash at any moment leaves no half of either.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from ..errors import BadScan
from ..files import whole_file, writable_folder

__all__ = ["Spool", "check_uid"]

UID = re.compile(r"(?=.{1,64}$)\d+(\.\d+)*")
ATTEMPTS = ".attempts"


class Spool:
    """The folders below `root`, which are made if need be.

    Raises:
        BadOutput: `root` cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        if not root.exists():
            writable_folder(root).chmod(0o700)  # patients' images
        self.incoming, self.work, self.outbox, self._partial, self._done = (
            writable_folder(root / name) for name in ("incoming", "work", "outbox", "partial", "done")
        )
        self._moving = threading.Lock()
        shutil.rmtree(self._partial)
        self._partial.mkdir()

    def add(self, content: bytes, study: str, series: str, instance: str, association: str) -> None:
        """Keep an instance that `association` sends; it is on disk when this returns.

        Raises:
            BadScan: a UID is no UID, and so no name for a file.
            OSError: the disk is full or gone.
        """
        for name, uid in (("Study", study), ("Series", series), ("SOP", instance)):
            check_uid(f"its {name}InstanceUID", uid)
        draft = self._partial / secrets.token_hex(16)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with self._moving:
                folder = self.incoming / study / series
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f".open-{association}").touch()
                draft.replace(folder / f"{instance}.dcm")
        finally:
            draft.unlink(missing_ok=True)

    def close(self, association: str, live: set[str], study: str = "*") -> None:
        """Note that an association sent a study, or all of its studies, to the end; `live` are the others.

        It makes up for associations that broke off while they sent the same series.
        """
        with self._moving:
            for own in self.incoming.glob(f"{study}/*/.open-{association}"):
                for marker in own.parent.glob(".open-*"):
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
        """The folders of the studies that were taken and not run to the end."""
        return _studies(self.work)

    def attempt(self, study: Path) -> int:
        """Count, on disk, the attempts to run a taken study: 1 for the first."""
        counter = study / ATTEMPTS
        told = counter.read_text() if counter.exists() else ""
        number = int(told) + 1 if told.isascii() and told.isdigit() else 1
        with whole_file(counter) as draft:
            draft.write_text(str(number))
        return number

    def forgive(self, study: str) -> None:
        """Forget the attempts at a study, if it was taken: it was not its fault that they failed."""
        with suppress(OSError):
            (self.work / study / ATTEMPTS).unlink()

    def finish(self, study: Path) -> None:
        """Remove a taken study: all of it at once, so that no part of it is ever run as if it were the whole."""
        gone = self._partial / secrets.token_hex(16)
        study.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def run_name(self, series: Path) -> str:
        """A name for the run of just these instances of a series, the same for each attempt."""
        instances = sorted(file.stem for file in series.glob("*.dcm"))
        return hashlib.sha256(" ".join([series.parent.name, series.name, *instances]).encode()).hexdigest()[:32]

    def was_run(self, series: Path) -> bool:
        """Whether all instances of a series were part of an earlier run."""
        earlier = self._read(series.parent.name).get(series.name, [])
        return {file.stem for file in series.glob("*.dcm")} <= set(earlier)

    def record_run(self, series: Path) -> None:
        """Remember the instances of a series that was run."""
        study = series.parent.name
        record = {**self._read(study), series.name: sorted(file.stem for file in series.glob("*.dcm"))}
        with whole_file(self._done / f"{study}.json") as draft:
            draft.write_text(json.dumps(record))

    def _read(self, study: str) -> dict[str, list[str]]:
        """The instances of each series of a study that was run; none where the record is damaged: it is run again."""
        try:
            record = json.loads((self._done / f"{study}.json").read_text())
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


def _studies(folder: Path) -> list[Path]:
    """The folders of studies in `folder`; what else lies there is none of ours."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and UID.fullmatch(path.name)]
