"""The wheel: what is in it, and that a nodule is found from an installation of it, far from the checkout."""

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from src.data.phantom import chest_phantom
from src.types import Vec3


def _run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, folder=root)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def pivot(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that holds the wheel, and borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    _run("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, folder=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin" / "pivot"


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vec3]:
    """The surroundings of the largest nodule of the phantom, and the nodule's place in world millimetres."""
    scan, (nodule, *_) = chest_phantom(spacing=(1.5, 1.5, 1.5))
    low = np.maximum(np.subtract(nodule.coordinates_voxel, 32), 0)
    block = scan.array[tuple(slice(first, first + 64) for first in low)]
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    path = tmp_path_factory.mktemp("scan") / "block.nii.gz"
    nibabel.save(nibabel.Nifti1Image(block, affine), path)
    return path, nodule.coordinates_lps


def test_the_wheel_holds_the_package_and_its_weights_and_nothing_else(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        weights = archive.read("pivot/checkpoints/best_model.pth")
    assert weights == (root / "checkpoints" / "best_model.pth").read_bytes()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"pivot"}
    modules = {path.relative_to(root / "src").as_posix() for path in (root / "src").rglob("*.py")}
    assert {name.removeprefix("pivot/") for name in names if name.endswith(".py")} == modules
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_help_needs_nothing_from_the_checkout(pivot: Path, tmp_path: Path) -> None:
    assert "--demo" in _run(pivot, "--help", folder=tmp_path)


def test_the_installed_command_finds_a_nodule(pivot: Path, chest: tuple[Path, Vec3], tmp_path: Path) -> None:
    path, place = chest
    _run(pivot, "--input", path, "--output", "results", folder=tmp_path)
    report = json.loads((tmp_path / "results" / "block_detections.json").read_text(encoding="utf-8"))
    found = report["detections"][0]["coordinates_lps"]
    assert np.linalg.norm(np.subtract(found, place)) < 10
    assert (tmp_path / "results" / "block_heatmap.nii.gz").is_file()
    assert (tmp_path / "results" / "block_visualization.png").is_file()


def test_an_installation_has_no_package_called_src(pivot: Path, tmp_path: Path) -> None:
    code = "import importlib.util, pivot; assert importlib.util.find_spec('src') is None; print(pivot.__file__)"
    where = _run(pivot.with_name("python"), "-c", code, folder=tmp_path)
    assert Path(where.strip()).is_relative_to(pivot.parents[1])
