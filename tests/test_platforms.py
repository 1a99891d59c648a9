"""The containers of other platforms: their commands on folders, without docker, and the files that describe them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

import src
from src.data.phantom import PhantomNodule
from src.inference.grand_challenge import main
from src.inference.options import parse
from src.pacs.settings import load_pacs
from src.types import Scan
from tests.small_scans import block


def _write_mha(scan: Scan, path: Path) -> None:
    lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    image = sitk.GetImageFromArray(scan.array.transpose(2, 1, 0))
    image.SetSpacing(scan.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / scan.spacing).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], PhantomNodule]:
    """The points of a scan with one nodule."""
    folder = tmp_path_factory.mktemp("challenge")
    scan, nodule = block(0)
    _write_mha(scan, folder / "input" / "images" / "ct" / "7f3c.mha")
    assert main(["--input", str(folder / "input"), "--output", str(folder / "output"), "--device", "cpu"]) == 0
    assert [path.name for path in (folder / "output").iterdir()] == ["nodule-locations.json"]
    points: dict[str, Any] = json.loads((folder / "output" / "nodule-locations.json").read_text(encoding="utf-8"))
    return points, nodule


def test_a_nodule_becomes_a_point_in_the_world(found: tuple[dict[str, Any], PhantomNodule]) -> None:
    points, nodule = found
    assert (points["type"], points["version"]) == ("Multiple points", {"major": 1, "minor": 0})
    first = points["points"][0]
    assert np.linalg.norm(np.subtract(first["point"], nodule.coordinates_lps)) < nodule.diameter_mm / 2
    assert [point["name"] for point in points["points"]][:1] == ["nodule 1"]


def test_points_are_in_order_of_confidence_down_to_0_1(found: tuple[dict[str, Any], PhantomNodule]) -> None:
    shares = [point["probability"] for point in found[0]["points"]]
    assert shares == sorted(shares, reverse=True)
    assert all(0.1 <= share <= 1 for share in shares)


@pytest.mark.parametrize(("names", "message"), [([], "holds 0 files"), (["a.mha", "b.mha"], "holds 2 files")])
def test_the_command_accepts_exactly_one_scan(
    names: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images" / "ct"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"")
    assert main(["--input", str(tmp_path), "--output", str(tmp_path / "out")]) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_and_a_broken_scan_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input", str(tmp_path), "--output", str(tmp_path / "out")]) == 3
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "images" / "ct").mkdir(parents=True)
    (tmp_path / "images" / "ct" / "a.mha").write_bytes(b"ObjectType = Image\n")
    assert main(["--input", str(tmp_path), "--output", str(tmp_path / "out")]) == 3
    assert not list((tmp_path / "out").glob("*"))


def test_the_monai_manifests_describe_a_valid_command(root: Path) -> None:
    folder = root / "deploy" / "monai"
    app, package = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("app", "pkg"))
    words = json.loads(app["command"])
    assert words[:3] == ["python", "-m", "pivot.inference.main"]
    options = parse(words[3:])
    assert (str(options.input), str(options.output)) == (app["input"]["path"], app["output"]["path"])
    assert app["version"] == package["version"] == src.__version__
    container = (folder / "Dockerfile").read_text(encoding="utf-8")
    [command] = re.findall(r"^CMD (\[.*\])$", container, re.MULTILINE)
    assert json.loads(command) == words
    assert (root / "checkpoints" / package["models"]["best_model"]).is_file()


def test_the_dicom_nodes_of_the_viewer_name_each_other(root: Path) -> None:
    folder = root / "deploy" / "viewer"
    pacs = load_pacs(folder / "pacs.yaml")
    orthanc = json.loads((folder / "orthanc.json").read_text(encoding="utf-8"))
    services = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert orthanc["DicomModalities"]["pivot"] == [pacs.listen.ae_title, "pivot", pacs.listen.port]
    [archive] = pacs.destinations
    assert (archive.ae_title, archive.host, archive.port) == (orthanc["DicomAet"], "orthanc", orthanc["DicomPort"])  # type: ignore[union-attr]
    assert list(pacs.listen.allowed_ae_titles) == [orthanc["DicomAet"]]
    assert {"orthanc", "pivot", "viewer"} == services.keys()
    assert f"proxy_pass http://orthanc:{orthanc['HttpPort']};" in (folder / "nginx.conf").read_text(encoding="utf-8")
    assert f"'{orthanc['DicomWeb']['Root'].rstrip('/')}'" in (folder / "app-config.js").read_text(encoding="utf-8")
    built = (folder / "Dockerfile").read_text(encoding="utf-8")
    for service in services.values():
        assert service.get("image") == "pivot:cpu" or f"AS {service['build']['target']}\n" in built
