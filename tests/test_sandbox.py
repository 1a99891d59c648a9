"""The process that reads an upload cannot open any other file, even through a vulnerable reader."""

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from src.config import Config
from src.data.loader import read_scan
from src.errors import BadScan, PivotError, lacking
from src.processes import memory_of_machine
from src.runs import confined
from src.runs.confined import ProcessLimits
from src.sandbox import can_confine
from src.types import Volume

from .api_service import ROOT, nifti
from .dicom_files import CHEST, change, write_series, zipped

needs_landlock = pytest.mark.skipif(not can_confine(), reason="needs Landlock (Linux 5.13)")
# A vulnerable reader: ITK opens any file that a header names.
VULNERABLE = """
import json, os, sys
from pathlib import Path
from src.runs import confined
from src.data import loader
from src.config import Config
from src.errors import BadScan

def read_scan(path):
    import SimpleITK
    found = {"environment": sorted(os.environ)}
    for name in sys.argv[1].split(","):
        try:
            Path(name).read_bytes()
            found[name] = "read"
        except OSError as error:
            found[name] = type(error).__name__
    try:
        found["by ITK"] = bytes(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)).ravel()[:4]).decode()
    except RuntimeError as error:
        found["by ITK"] = type(error).__name__
    raise BadScan(json.dumps(found))

loader.read_scan = read_scan
if sys.argv[2] == "free":
    confined.confine = lambda *_: False
confined.main(sys.argv[3:])
"""
HEADER = (
    "ObjectType = Image\nNDims = 3\nDimSize = 4 1 1\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
    "ElementDataFile = LIST\n/etc/passwd\n"
)


def _read_by_vulnerable_reader(folder: Path, others: list[Path], how: str) -> dict[str, str]:
    upload, scratch = folder / "a" / "scan.mhd", folder / "a" / "scratch"
    scratch.mkdir(parents=True)
    upload.write_text(HEADER)
    command = [sys.executable, "-c", VULNERABLE, ",".join(map(str, others)), how]
    command += ["read", str(upload), "--folder", str(scratch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(json.loads((scratch / "answer.json").read_text())["message"])
    return found


@needs_landlock
def test_a_vulnerable_reader_cannot_open_other_files(tmp_path: Path) -> None:
    anothers = tmp_path / "b" / "report.json"
    anothers.parent.mkdir()
    anothers.write_text("{}")
    secrets = [Path("/etc/passwd"), Path("/proc/self/environ"), anothers]
    free = _read_by_vulnerable_reader(tmp_path / "free", secrets, "free")
    assert {free[str(path)] for path in secrets} == {"read"}  # without confinement, the reader opens them
    assert free["by ITK"] == "root"
    closed = _read_by_vulnerable_reader(tmp_path / "confined", secrets, "confined")
    assert {closed[str(path)] for path in secrets} == {"PermissionError"}
    assert closed["by ITK"] == "RuntimeError"


@needs_landlock
def test_a_confined_process_can_create_files_and_folders_but_no_links_or_devices(tmp_path: Path) -> None:
    code = f"""
import os, socket
from src.sandbox import confine, needed_by_python
confine(needed_by_python(), [{str(tmp_path)!r}])
os.chdir({str(tmp_path)!r})
os.mkdir("folder")
open("folder/file", "w").close()
for make in (lambda: os.symlink("/etc/passwd", "link"), lambda: os.link("/etc/passwd", "hard"),
             lambda: os.mkfifo("pipe"), lambda: socket.socket(socket.AF_UNIX).bind("socket")):
    try:
        make()
    except OSError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["refused"] * 4, "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_link_among_the_written_objects_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "scan_dicom").mkdir()

    def run(*_: object) -> dict[str, object]:
        (folder / "nodules_sr.dcm").symlink_to("/etc/passwd")
        return {}

    monkeypatch.setattr(confined, "_run", run)
    results: Any = {"heatmap": Volume(np.zeros((2, 2, 2), np.float32), np.eye(4))}
    with pytest.raises(PivotError, match="something else"):
        confined.export_objects(ProcessLimits(tmp_path, None, lambda: None), tmp_path, results, folder, None, [], [])


@pytest.mark.parametrize("task", ["read", "export"])
def test_the_process_imports_only_what_it_needs(tmp_path: Path, task: str) -> None:
    """Each scan waits for the imports. The export fails here, because the results are empty, but after its imports."""
    write_series(tmp_path / "series", CHEST)
    (tmp_path / "scratch").mkdir()
    affine = np.eye(4)
    left: Any = ({"heatmap": np.zeros((2, 2, 2), np.float32), "metadata": {}}, affine, None, [], [])
    (tmp_path / "scratch" / "task.pickle").write_bytes(pickle.dumps(left))
    arguments = [task, str(tmp_path / "series"), "--folder", str(tmp_path / "scratch"), "--check"]
    code = f"import sys\nfrom src.runs import confined\nconfined.main({arguments!r})\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"src.data.dicom", "src.dicom_io.context"} <= loaded
    assert not loaded & {"matplotlib", "nibabel", "pydantic", "scipy", "skimage", "torch"}
    assert ("highdicom" in loaded) == (task == "export")


def test_the_process_gets_no_secret_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIVOT_DATABASE_URL", "postgresql+psycopg://user:hunter2@host/jobs")
    seen = dict[str, str]()
    start = subprocess.Popen

    def note(*command: object, **options: object) -> object:
        seen.update(options["env"])  # type: ignore[call-overload]
        return start(*command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("src.runs.confined.subprocess.Popen", note)
    (tmp_path / "scan.nii").write_bytes(nifti())
    scan, seconds = confined.read(tmp_path / "scan.nii", Config(), ProcessLimits(tmp_path, None, lambda: None))
    assert (scan.shape, scan.scan_id, seconds > 0) == ((40, 40, 40), "scan", True)
    assert not [name for name in seen if name.startswith("PIVOT")]
    assert "hunter2" not in "".join(seen.values())
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_the_acquisition_of_a_dicom_series_is_returned(tmp_path: Path) -> None:
    series = write_series(tmp_path / "scan", CHEST, edit=change(BodyPartExamined="CHEST", ConvolutionKernel="B30f"))
    path = zipped(tmp_path / "scan.zip", series)
    scan, _ = confined.read(path, Config(), ProcessLimits(tmp_path, None, lambda: None))
    assert (scan.body_part, scan.acquisition[:2]) == ("CHEST", (99.0, "B30F"))
    assert len(scan.acquisition.image_numbers) == CHEST.shape[2]
    assert (scan.body_part, scan.acquisition) == (read_scan(path).body_part, read_scan(path).acquisition)


def test_an_error_about_the_scan_is_returned(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(nifti()[:400])
    with pytest.raises(BadScan, match=r"scan\.nii: is cut short"):
        confined.read(tmp_path / "scan.nii", Config(), ProcessLimits(tmp_path, None, lambda: None))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_a_scan_that_needs_too_much_memory_is_refused_with_that_reason(tmp_path: Path) -> None:
    """A quarter of a megabyte that decompresses to half a gigabyte."""
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((1024, 1024, 256), np.int16), np.diag([0.4, 0.4, 1, 1])), path)
    with pytest.raises(PivotError, match="memory") as caught:
        confined.read(path, Config(), ProcessLimits(tmp_path, 300_000_000, lambda: None))
    assert isinstance(lacking(caught.value), MemoryError)  # the listener then keeps the study


def test_a_lack_of_memory_or_disk_is_reported_as_the_reason() -> None:
    for error in (MemoryError(), OSError(errno.ENOSPC, "No space left on device"), ValueError("x")):
        lack = confined._lack(confined._failure(error, None))  # noqa: SLF001 - as below
        assert (type(lack), getattr(lack, "errno", None)) == (
            (type(error), getattr(error, "errno", None)) if lacking(error) else (type(None), None)
        )


def test_a_reader_that_dies_is_not_blamed_on_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "PACKAGES", tmp_path)  # contains no packages
    (tmp_path / "scan.nii").write_bytes(nifti())
    with pytest.raises(PivotError, match="died") as caught:
        confined.read(tmp_path / "scan.nii", Config(), ProcessLimits(tmp_path, None, lambda: None))
    assert isinstance(lacking(caught.value), MemoryError)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            caused(BadScan("x.dcm is damaged: copy it again"), MemoryError()),
            "PivotError",
            "needs more memory than 0.5 GB",
        ),
        (caused(PivotError("x"), OSError(errno.ENOSPC, "No space left on device")), "PivotError", "No space left"),
        (caused(BadScan("it is cut short"), ValueError("x")), "BadScan", "it is cut short"),
        (BadScan("x may not be read: change its permissions"), "BadScan", "may not be read"),
        (KeyError("Secret^Name"), "PivotError", "unexpected KeyError"),
    ],
)
def test_only_errors_of_the_scan_are_reported_as_such(error: Exception, kind: str, message: str) -> None:
    answer = confined._failure(error, 500_000_000)  # noqa: SLF001 - a separate process cannot be patched
    assert (answer["error"], message in answer["message"]) == (kind, True)
    assert "Secret" not in str(answer)


def test_the_reading_process_ends_with_the_job(tmp_path: Path) -> None:
    class Over(Exception):
        pass

    def check() -> None:
        raise Over

    (tmp_path / "scan.nii").write_bytes(nifti())
    start = time.monotonic()
    with pytest.raises(Over):
        confined.read(tmp_path / "scan.nii", Config(), ProcessLimits(tmp_path, None, check))
    assert time.monotonic() - start < 30
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_a_worker_has_a_memory_limit() -> None:
    code = "from src.processes import limit_memory; limit_memory(500_000_000); bytearray(700_000_000)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr
    machine = memory_of_machine()
    assert machine is None or 2**28 < machine <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
