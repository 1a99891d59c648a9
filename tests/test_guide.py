"""docs/guide.md as the acceptance test: every block is run from top to bottom. The tutorials are run too."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from benchmarks.cluster import local_cluster
from src.config import Config, load_config
from src.data.loader import scan_name
from src.data.phantom import PhantomNodule, chest_phantom
from src.data.survey import find_scans
from src.inference.main import main
from src.pacs.settings import load_pacs
from src.results.output_formatter import load_detections
from src.types import Scan
from tests.api_service import free_port, wait_for
from tests.guide_blocks import FENCE, commands, leaves, spans

PORT = "8000"  # the guide's port; the tests use a free one
WIDTH, SPACING = 90.0, (1.5, 1.5, 2.0)  # mm
Found = tuple[Scan, PhantomNodule]


@pytest.fixture(scope="module")
def blocks() -> list[Found]:
    """Two parts of a chest as small scans, each with a nodule in its middle."""
    scan, truth = chest_phantom(spacing=SPACING)
    return [_cut(scan, truth[0]), _cut(scan, truth[1])]


def _cut(scan: Scan, nodule: PhantomNodule) -> Found:
    low = np.maximum(np.round((np.array(nodule.coordinates) - WIDTH / 2) / scan.spacing), 0).astype(int)
    high = low + np.round(WIDTH / np.array(scan.spacing)).astype(int)
    shift = np.eye(4)
    shift[:3, 3] = low
    array = scan.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    x, y, z = np.array(nodule.coordinates) - low * scan.spacing
    return Scan(array, scan.affine @ shift), dataclasses.replace(nodule, coordinates=(x, y, z))


@pytest.fixture
def folder(tmp_path: Path, blocks: list[Found], root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all the files that the guide names, set as the current folder."""
    for index, name in [
        (0, "scan.nii.gz"),
        (1, "data/test/patient_001.nii.gz"),
        (0, "data/test/scans/one.nii.gz"),
        (1, "data/test/scans/other.nii.gz"),
        (0, "data/test/batch_0/one.nii.gz"),
        (1, "data/test/batch_1/other.nii.gz"),
    ]:
        scan, _ = blocks[index]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(scan.array, scan.affine), tmp_path / name)
    for name in ("checkpoints/best_model.pth", "configs/inference.yaml", "calibration/triage_calibration.json"):
        if (root / name).exists():
            (tmp_path / name).parent.mkdir()
            shutil.copy(root / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Reader:
    """Runs each block of the guide in its own folder."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.port = str(free_port())
        self.server: subprocess.Popen[bytes] | None = None
        self.answers: list[dict[str, Any]] = []
        scan_bytes = (folder / "scan.nii.gz").read_bytes()
        self.names: dict[str, Any] = {"__name__": "guide", "scan_paths": ["scan.nii.gz"], "scan_bytes": scan_bytes}
        self.reports: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.blocks = 0
        self.written: dict[str, str] = {}  # the first lines of all result files so far

    def read(self, guide: Path) -> None:
        """Run all blocks in order."""
        actions = {"bash": self.bash, "python": self.python, "yaml": self.yaml, "json": self.json, "csv": self.csv}
        parsers = [CodeBlockParser(language, action) for language, action in actions.items()]
        for example in Sybil(parsers).parse(guide).examples():
            self.blocks += 1
            example.evaluate()
            self._record_files()

    def _record_files(self) -> None:
        """Record the result files after a block; a later run of the same scan removes files that it does not write."""
        for path in (self.folder / "results").rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    first = file.readline(1000).decode(errors="replace").strip()
                self.written[path.relative_to(self.folder).as_posix()] = first

    def bash(self, example: Example) -> None:
        script = str(example.parsed)
        if "&\n" in script:
            self._shell(script)
            return
        for words in commands(script):
            self._command(words)

    def _shell(self, script: str) -> None:
        """Run a script in a real shell, in which `uv run` is this interpreter."""
        uv = self.folder / "bin" / "uv"
        uv.parent.mkdir()
        uv.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "$@"\n')
        uv.chmod(0o755)
        path = f"{uv.parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607 - bash is found by PATH
            env={**os.environ, "PATH": path, "PYTHONPATH": str(self.root)},
            check=True,
        )

    def _command(self, words: list[str]) -> None:
        match words:
            case ["uv", "run", "python", "-m", "src.inference.main", *arguments]:
                assert main(arguments) == 0
            case ["uv", "run", "uvicorn", *_]:
                self._serve(words[2:])
            case ["curl", *_]:
                self._curl(words)
            case _:
                pytest.fail(f"the tests do not know how to run {words}")

    def _serve(self, command: list[str]) -> None:
        """Start the server in a separate process, which `stop` ends."""
        variables = {"PIVOT_DATA": str(self.folder / "service"), "PIVOT_FREE_BYTES": "1", "PYTHONPATH": str(self.root)}
        words = [word.replace(PORT, self.port) for word in command]
        with (self.folder / "server.log").open("wb") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", *words], env={**os.environ, **variables}, stdout=log, stderr=log
            )
        wait_for(f"http://localhost:{self.port}", self.server, self.folder / "server.log")

    def _curl(self, words: list[str]) -> None:
        """Send a request about the latest job until the server no longer answers that it is running."""
        number = self.answers[-1]["job_id"] if self.answers else ""
        command = [word.replace(PORT, self.port).replace("{job_id}", number) for word in words]
        until = time.monotonic() + 300
        while True:
            answer = json.loads(subprocess.run([*command, "--silent"], check=True, capture_output=True).stdout)
            if answer.get("status") != 409:
                self.answers.append(answer)
                return
            assert time.monotonic() < until, answer
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop the server."""
        if self.server:
            self.server.terminate()
            self.server.wait(60)

    def python(self, example: Example) -> None:
        code = "\n" * example.line + example.parsed.replace(f"localhost:{PORT}", f"localhost:{self.port}")
        exec(compile(code, example.path, "exec"), self.names)  # noqa: S102 - runs the guide's own code

    def yaml(self, example: Example) -> None:
        """Check a configuration; a block whose first line names its file becomes that file."""
        named = re.match(r"# (\w+\.yaml)\n", example.parsed)
        if named:
            (self.folder / named[1]).write_text(example.parsed, encoding="utf-8")
        else:
            load_config(yaml.safe_load(example.parsed))
        if named and named[1] == "pacs.yaml":
            load_pacs(self.folder / named[1])

    def json(self, example: Example) -> None:
        self.reports.append(json.loads(example.parsed))

    def csv(self, example: Example) -> None:
        self.headers.append(example.parsed.splitlines()[0])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # raised inside Ray
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.load` is deprecated")  # as the guide says
def test_every_block_of_the_guide_runs(
    folder: Path,
    blocks: list[Found],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    scan, nodule = blocks[0]
    monkeypatch.setattr("src.data.phantom.chest_phantom", lambda: (scan, [nodule]))  # a whole chest takes a minute
    guide = root / "docs" / "guide.md"
    text = guide.read_text(encoding="utf-8")
    reader = Reader(folder, root)
    try:
        with local_cluster(1):
            reader.read(guide)
    finally:
        reader.stop()

    assert reader.blocks == len(FENCE.findall(text)) == text.count("```") // 2
    assert caplog.text.count("is not available here: running on the CPU") <= 1

    first = load_detections("results/scan_detections.json")[0]
    assert np.linalg.norm(np.subtract(first["coordinates"], nodule.coordinates)) < nodule.diameter_mm / 2
    _check_files(folder, text, reader.written)
    [report] = reader.reports
    _check_contents(folder, report, reader.headers, reader.written)
    submitted, answered = reader.answers
    assert submitted["scan_id"] == "scan"
    _same_keys(answered, report, "the service's results")
    out = capfd.readouterr().out
    assert "Progress: 100.0%\nDetections: [{" in out  # printed by the WebSocket example


@pytest.mark.parametrize("name", ["first_scan", "folder", "luna16", "pacs"])
def test_every_block_of_a_tutorial_runs(
    name: str, folder: Path, blocks: list[Found], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, nodule = blocks[0]
    monkeypatch.setattr("src.data.phantom.chest_phantom", lambda: (scan, [nodule]))
    _write_luna16(folder, scan, nodule)
    tutorial = root / "docs" / "tutorials" / f"{name}.md"
    reader = Reader(folder, root)

    reader.read(tutorial)

    text = tutorial.read_text(encoding="utf-8")
    assert reader.blocks == sum(language in {"bash", "python", "yaml"} for language, _ in FENCE.findall(text)) > 0
    named = re.findall(r"results/[\w./]+\.\w+", text)
    assert not [path for path in named if not (folder / path).is_file()]
    if name == "luna16":
        assert json.loads((folder / "results/froc/froc.json").read_text())["cpm"] == 1.0


def _write_luna16(folder: Path, scan: Scan, nodule: PhantomNodule) -> None:
    """A scan with one nodule, as LUNA16 has them."""
    (folder / "luna16").mkdir()
    image = sitk.GetImageFromArray(scan.array.transpose(2, 1, 0))
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, folder / "luna16" / "1.2.3.mhd")
    point = ",".join(str(value) for value in nodule.coordinates)  # so that the origin is the first voxel
    row = f"1.2.3,{point},{nodule.diameter_mm}"
    (folder / "annotations.csv").write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm\n{row}\n")


def _check_files(folder: Path, text: str, written: dict[str, str]) -> None:
    """Check that every result that the guide names was written, and the results of each scan in a folder."""
    for name in re.findall(r"results/[\w./]+\.\w+", text):
        assert name in written, name
    scripts = "".join(block for language, block in FENCE.findall(text) if language == "bash")
    for words in commands(scripts):
        if "--input-dir" in words:
            source, target = (words[words.index(option) + 1] for option in ("--input-dir", "--output-dir"))
            for scan in find_scans(source):
                assert (folder / target / f"{scan_name(scan)}_detections.json").is_file(), scan


def _check_contents(folder: Path, report: dict[str, Any], headers: list[str], written: dict[str, str]) -> None:
    """Check that the files have exactly the documented keys and columns."""
    for path in (folder / "results").rglob("*detections.json"):
        _same_keys(json.loads(path.read_text(encoding="utf-8")), report, str(path))
    tables = [first for name, first in written.items() if name.endswith(".csv")]
    assert set(tables) == set(headers)


def _same_keys(real: object, documented: object, where: str) -> None:
    match real, documented:
        case dict(), {}:
            absent = documented.keys() - real.keys()
            assert absent <= {"read", "write", "input_sha256"}, where  # only the command line writes these
            assert real.keys() <= documented.keys() or not documented, where  # `{}` abbreviates any value
            for key in documented.keys() - absent:
                _same_keys(real[key], documented[key], f"{where}: {key}")
        case list(), [dict(example), *_]:
            for item in real:
                _same_keys(item, example, where)
        case _:
            assert isinstance(real, type(documented)) or None in (real, documented) or _numbers(real, documented), where


def _numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _settings(root: Path) -> Iterator[str]:
    """Settings in the prose, such as `min_distance: 5`."""
    text = (root / "docs" / "guide.md").read_text(encoding="utf-8")
    return (span for span in spans(text) if re.fullmatch(r"[a-z_.]+: [^?]+", span))


def test_every_setting_in_the_prose_exists(root: Path) -> None:
    known = [path for path, _ in leaves(Config().model_dump())]
    settings = list(_settings(root))
    for setting in settings:
        key, _, value = setting.partition(": ")
        path, *_ = [path for path in known if f".{path}".endswith(f".{key}")]
        config: Any = yaml.safe_load(value)
        for part in reversed(path.split(".")):
            config = {part: config}
        load_config(config)
    assert len(settings) > 5
