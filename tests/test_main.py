"""The command line and the pipeline on the shipped weights."""

import csv
import json

import nibabel
import numpy as np
import pytest
import torch

from src.data.loader import read_scan
from src.inference.main import main
from src.inference.output_formatter import load_detections


@pytest.fixture(scope="module")
def chest(tmp_path_factory, shared_data):
    """A block of a real chest around its one nodule, and the nodule's place (LPS, mm)."""
    scan = read_scan(shared_data / "lidc-idri-0001")
    with (shared_data / "lidc-idri-0001.truth.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    world = np.array([float(row[f"coord{axis}"]) for axis in "XYZ"])
    middle = np.round(np.linalg.inv(np.diag([-1, -1, 1, 1]) @ scan.affine) @ [*world, 1])[:3].astype(int)
    low = np.maximum(middle - [70, 70, 20], 0)
    block = scan.array[tuple(slice(a, b) for a, b in zip(low, middle + [70, 70, 20], strict=True))]
    shift = np.eye(4)
    shift[:3, 3] = low
    path = tmp_path_factory.mktemp("chest") / "block.nii.gz"
    nibabel.save(nibabel.Nifti1Image(block, scan.affine @ shift), path)
    return path, world, float(row["diameter_mm"])


def _flipped(path, folder):
    image = nibabel.load(path)
    turned = image.as_reoriented([[2, -1], [0, 1], [1, -1]])
    nibabel.save(turned, folder / "turned.nii.gz")
    return folder / "turned.nii.gz"


def test_a_real_nodule_is_the_strongest_mark_whatever_the_axes(chest, tmp_path):
    path, world, diameter = chest
    assert main(["--input", str(path), "--output", str(tmp_path), "--format", "both"]) == 0
    assert main(["--input", str(_flipped(path, tmp_path)), "--output", str(tmp_path)]) == 0
    first = load_detections(tmp_path / "block_detections.json")[0]
    turned = load_detections(tmp_path / "turned_detections.json")[0]
    assert np.linalg.norm(np.subtract(first["coordinates_lps"], world)) < diameter / 2
    assert np.linalg.norm(np.subtract(first["coordinates_lps"], turned["coordinates_lps"])) < 0.5
    heat = nibabel.load(tmp_path / "turned_heatmap.nii.gz")
    np.testing.assert_allclose(heat.affine, nibabel.load(tmp_path / "turned.nii.gz").affine, atol=1e-4)
    assert heat.get_fdata()[tuple(turned["coordinates_voxel"])] > 0.4
    assert (tmp_path / "block_visualization.png").stat().st_size > 10_000
    assert (tmp_path / "block_detections.csv").read_text().startswith("scan_id,detection_id,coord_x")
    report = json.loads((tmp_path / "block_detections.json").read_text())
    assert report["summary"]["num_detections"] == len(report["detections"])
    assert report["detections"][0]["triage"]["malignancy_score"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "missing.nii.gz"], 3, "missing.nii.gz"),
        (["--input", "x", "--checkpoint", "missing.pth"], 4, "missing.pth"),
        (["--input", "x", "--config", "missing.yaml"], 2, "missing.yaml"),
        (["--input", "x", "--output", "{file}"], 5, "it is a file"),
        (["--input", "x", "--checkpoint", "{file}"], 4, "checkpoint"),
        (["--input", "x", "--checkpoint", "{bomb}"], 4, "ran nothing"),
    ],
)
def test_mistakes_have_their_own_exit_code_and_no_traceback(arguments, code, message, tmp_path, capsys):
    file, bomb = tmp_path / "file.pth", tmp_path / "bomb.pth"
    file.write_text("text")
    torch.save({"state_dict": print}, bomb)
    filled = [part.format(file=file, bomb=bomb) for part in arguments]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "out")]
    assert main(filled) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not list((tmp_path / "out").glob("*"))
