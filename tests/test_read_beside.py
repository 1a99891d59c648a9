"""Reading the scan in a separate process while torch is imported."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import nibabel
import numpy as np
import pytest

from src.detection.pipeline import InferencePipeline
from src.errors import BadScan, PivotError
from src.runs.batch import infer_file
from src.runs.read_ahead import read_timed
from src.runs.read_beside import read_beside

from .small_scans import chest, tiny_checkpoint


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    made = chest()[0]
    nibabel.save(nibabel.Nifti1Image(made.array.astype(np.int16), made.affine), path)
    return path


@pytest.fixture
def _without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")


def test_the_scan_is_read_in_this_process_if_torch_is_already_imported(scan: Path) -> None:
    with read_beside(scan) as read:
        assert read is read_timed


@pytest.mark.usefixtures("_without_torch")
def test_the_scan_and_its_lungs_arrive_unchanged(scan: Path) -> None:
    with read_beside(scan) as read:
        beside, here = read(scan), read_timed(scan)
    assert read is not read_timed
    np.testing.assert_array_equal(beside.scan.array, here.scan.array)
    np.testing.assert_array_equal(beside.scan.affine, here.scan.affine)
    assert (beside.scan.scan_id, beside.scan.notes) == (here.scan.scan_id, here.scan.notes)
    assert beside.scan.array.strides == here.scan.array.strides
    assert beside.lungs is not None
    assert here.lungs is not None
    np.testing.assert_array_equal(beside.lungs.around, here.lungs.around)
    assert beside.seconds > 0


@pytest.mark.usefixtures("_without_torch")
def test_an_error_of_the_reader_is_raised_here(scan: Path) -> None:
    scan.write_bytes(b"no scan")
    with read_beside(scan) as read, pytest.raises(BadScan, match=r"scan\.nii\.gz: is not gzip data"):
        read(scan)


def _die(_voxels: Path, _path: Path) -> None:
    os._exit(9)  # as the kernel does without memory


def test_a_killed_reader_is_reported(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"))
    monkeypatch.setattr("src.runs.read_beside._read_to", _die)
    with ExitStack() as stack:
        with monkeypatch.context() as gone:
            gone.delitem(sys.modules, "torch")
            read = stack.enter_context(read_beside(scan))
        with pytest.raises(PivotError, match="the process that read it has died"):
            infer_file(pipeline, scan, tmp_path / "out", read=read)
    assert not list((tmp_path / "out").glob("*"))
