"""The wheel: its content, and that an installation finds a nodule without the checkout."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from src.api.client import InferenceClient
from src.data.phantom import chest_phantom
from src.types import Vec3

from .api_service import free_port, wait_for


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
    """The `pivot` command of an environment with the wheel and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    _run("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, folder=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin" / "pivot"


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vec3]:
    """A block around the phantom's largest nodule, and the nodule's centre in world millimetres."""
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
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"pivot", "src"}
    assert [name for name in names if name.startswith("src/")] == ["src/__init__.py"]
    modules = {path.relative_to(root / "src").as_posix() for path in (root / "src").rglob("*.py")}
    assert {name.removeprefix("pivot/") for name in names if re.match(r"pivot/.*\.py$", name)} == modules
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("name", ["pivot", "src"])
def test_a_development_installation_has_both_package_names_in_any_folder(name: str, root: Path, tmp_path: Path) -> None:
    """What `pip install -e .` puts on Python's path."""
    build = f"import hatchling.build; print(hatchling.build.build_editable({str(tmp_path)!r}))"
    with zipfile.ZipFile(tmp_path / _run(sys.executable, "-c", build, folder=root).strip()) as archive:
        (paths,) = (archive.read(file).decode() for file in archive.namelist() if "/" not in file)
    script = (
        f"import sys; sys.path[:0] = {paths.splitlines()}; import {name}.inference.main as it; it.main(['--version'])"
    )
    assert _run(sys.executable, "-I", "-c", script, folder=tmp_path).startswith("pivot ")


def test_the_wheel_holds_the_page(wheel: Path, root: Path) -> None:
    static = root / "src" / "api" / "static"
    if not static.is_dir():
        pytest.skip("the page is not built: npm --prefix web ci && npm --prefix web run build")
    built = {path.relative_to(root / "src").as_posix() for path in static.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.removeprefix("pivot/") for name in names if name.startswith("pivot/api/static/")} == built


def test_help_works_without_the_checkout(pivot: Path, tmp_path: Path) -> None:
    assert "--demo" in _run(pivot, "--help", folder=tmp_path)


def test_the_installed_command_finds_a_nodule(pivot: Path, chest: tuple[Path, Vec3], tmp_path: Path) -> None:
    path, place = chest
    _run(pivot, "--input", path, "--output", "results", folder=tmp_path)
    report = json.loads((tmp_path / "results" / "block_detections.json").read_text(encoding="utf-8"))
    found = report["detections"][0]["coordinates_lps"]
    assert np.linalg.norm(np.subtract(found, place)) < 10
    assert (tmp_path / "results" / "block_heatmap.nii.gz").is_file()
    assert (tmp_path / "results" / "block_visualization.png").is_file()


def test_the_installed_service_runs_the_commands_of_the_images(
    pivot: Path, chest: tuple[Path, Vec3], tmp_path: Path
) -> None:
    """Starts server and worker with the commands in `deploy/`."""
    python, port, log = pivot.with_name("python"), free_port(), tmp_path / "log"
    variables = {"PIVOT_DATA": str(tmp_path / "data"), "PIVOT_DEVICES": "none", "PIVOT_FREE_BYTES": "1"}
    options: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, **variables}}
    work: list[str | Path] = [python, "-m", "pivot.api.worker"]
    serve: list[str | Path] = [python, "-m", "uvicorn", "pivot.api.app:app", "--port", str(port)]
    with log.open("wb") as sink, ExitStack() as stack:
        server, worker = (
            stack.enter_context(subprocess.Popen(command, **options, stdout=sink, stderr=sink))
            for command in (serve, work)
        )
        stack.callback(worker.terminate)
        stack.callback(server.terminate)
        wait_for(f"http://127.0.0.1:{port}", server, log)
        with InferenceClient(f"http://127.0.0.1:{port}") as client:
            number = client.submit_inference(chest[0])
            report = client.wait_for_results(number, timeout=300)
            names = {path.name for path in client.download_results(number, tmp_path / "results")}
    assert np.linalg.norm(np.subtract(report["detections"][0]["coordinates_lps"], chest[1])) < 10
    assert names == {"block_detections.json", "block_heatmap.nii.gz", "block_visualization.png"}


def test_the_guides_names_and_files_work_from_any_folder(pivot: Path, tmp_path: Path) -> None:
    python = pivot.with_name("python")
    version = _run(python, "-m", "src.inference.main", "--version", folder=tmp_path)
    assert version == _run(pivot, "--version", folder=tmp_path)
    code = "import pivot, src.files; from src.config import load_config; load_config('configs/inference.yaml')"
    code += "; print(pivot.__file__, src.files.__file__, pivot.files.as_module('train.triage.fit'))"
    first, second, command = _run(python, "-c", f"import pivot.files; {code}", folder=tmp_path).strip().split(" ", 2)
    assert Path(first).parent == Path(second).parent
    assert Path(first).is_relative_to(pivot.parents[1])
    assert command == "python -m pivot.train.triage.fit"
