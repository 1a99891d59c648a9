"""The scan that is read in a process of its own while torch is imported."""

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


def test_with_torch_at_hand_the_scan_is_read_here(scan: Path) -> None:
    with read_beside(scan) as read:
        assert read is read_timed


@pytest.mark.usefixtures("_without_torch")
def test_the_scan_and_its_lungs_arrive_as_they_were_read(scan: Path) -> None:
    with read_beside(scan) as read:
        there, here = read(scan), read_timed(scan)
    assert read is not read_timed
    np.testing.assert_array_equal(there.scan.array, here.scan.array)
    np.testing.assert_array_equal(there.scan.affine, here.scan.affine)
    assert (there.scan.scan_id, there.scan.notes) == (here.scan.scan_id, here.scan.notes)
    assert there.scan.array.strides == here.scan.array.strides
    assert there.lungs is not None
    assert here.lungs is not None
    np.testing.assert_array_equal(there.lungs.around, here.lungs.around)
    assert there.seconds > 0


@pytest.mark.usefixtures("_without_torch")
def test_what_is_wrong_with_the_scan_arrives(scan: Path) -> None:
    scan.write_bytes(b"no scan")
    with read_beside(scan) as read, pytest.raises(BadScan, match=r"scan\.nii\.gz: is not gzip data"):
        read(scan)


def _die(_voxels: Path, _path: Path) -> None:
    os._exit(9)  # as the kernel ends it when memory runs out


def test_the_end_of_that_process_is_told(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"))
    monkeypatch.setattr("src.runs.read_beside._read_to", _die)
    with ExitStack() as stack:
        with monkeypatch.context() as gone:
            gone.delitem(sys.modules, "torch")
            read = stack.enter_context(read_beside(scan))
        with pytest.raises(PivotError, match="the process that read it has died"):
            infer_file(pipeline, scan, tmp_path / "out", read=read)
    assert not list((tmp_path / "out").glob("*"))
