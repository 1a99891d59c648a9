"""Ensembles of detectors, and detectors given by their address on a hub."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.detection.ensemble import fused
from src.detection.findings import PlacedPeak
from src.detection.pipeline import InferencePipeline
from src.detectors.hub import cache_folder, local
from src.detectors.known import KNOWN
from src.detectors.opening import open_model
from src.errors import BadCheckpoint, BadConfig
from src.inference.main import main
from src.inference.options import parse
from src.types import Peak
from tests.foreign_models import save_segmenter
from tests.small_scans import block, tiny_checkpoint


def mark(x: float, confidence: float, diameter: float = 6.0) -> PlacedPeak:
    peak = Peak(coordinates=(x, 0, 0), coordinates_voxel=(0, 0, 0), diameter_mm=None, confidence=confidence)
    return PlacedPeak(peak, np.array([x, 0.0, 0.0]), diameter)


class TestFusion:
    def test_near_marks_are_merged_by_noisy_or_and_weighted_means(self) -> None:
        (joint,) = fused([("a", [mark(0, 0.8, 6)]), ("b", [mark(4, 0.4, 9)])])
        assert joint.peak["confidence"] == pytest.approx(1 - 0.2 * 0.6)
        assert joint.world[0] == pytest.approx((0 * 0.8 + 4 * 0.4) / 1.2)
        assert joint.diameter == pytest.approx((6 * 0.8 + 9 * 0.4) / 1.2)
        assert joint.detectors == ({"name": "a", "confidence": 0.8}, {"name": "b", "confidence": 0.4})

    @pytest.mark.parametrize(("distance", "diameter", "count"), [(4.9, 6, 1), (5.1, 6, 2), (9.9, 20, 1), (10.1, 20, 2)])
    def test_marks_within_5_mm_or_half_the_diameter_are_merged(
        self, distance: float, diameter: float, count: int
    ) -> None:
        assert len(fused([("a", [mark(0, 0.9)]), ("b", [mark(distance, 0.5, diameter)])])) == count

    def test_a_mark_is_merged_with_the_nearest_mark_of_another_detector(self) -> None:
        found = fused([("a", [mark(0, 0.9), mark(4, 0.8)]), ("b", [mark(3, 0.5)])])
        assert [len(one.detectors) for one in found] == [1, 2] or [len(one.detectors) for one in found] == [2, 1]
        both = next(one for one in found if len(one.detectors) == 2)
        assert both.detectors[0]["confidence"] == 0.8

    def test_single_marks_keep_their_confidence_and_all_are_sorted_by_it(self) -> None:
        found = fused([("a", [mark(0, 0.3), mark(50, 0.6)]), ("b", [mark(100, 0.9)])])
        assert [one.peak["confidence"] for one in found] == pytest.approx([0.9, 0.6, 0.3])

    def test_the_order_of_the_detectors_does_not_change_the_confidences(self) -> None:
        first, second = [mark(0, 0.9), mark(30, 0.4)], [mark(2, 0.5), mark(31, 0.7)]
        one, other = fused([("a", first), ("b", second)]), fused([("b", second), ("a", first)])
        assert [round(each.peak["confidence"], 9) for each in one] == [round(e.peak["confidence"], 9) for e in other]


@pytest.mark.filterwarnings("ignore")
class TestTogether:
    def test_each_mark_names_its_detectors(self, tmp_path: Path) -> None:
        save_segmenter(tmp_path / "seg", name="seg", inference={"patch_size": [64, 64, 64], "overlap": 0.25})
        tiny = tiny_checkpoint(tmp_path / "tiny.pth")
        config = {"inference": {"second_look": False}}
        ready = InferencePipeline([tiny, tmp_path / "seg"], config, "cpu")
        results = ready.predict(block(2)[0])
        checkpoint = results["metadata"]["checkpoint"]
        assert checkpoint["name"] == "tiny + seg"
        assert [one["name"] for one in checkpoint["members"]] == ["tiny", "seg"]
        marks = [*results["detections"], *results["masses"], *results["candidates"]]
        assert {one["name"] for found in marks for one in found["detectors"]} <= {"tiny", "seg"}
        assert marks

    def test_the_command_line_accepts_one_or_several_checkpoints(self) -> None:
        one = parse(["--input", "x.nii", "--checkpoint", "a.pth"]).checkpoint
        two = parse(["--input", "x.nii", "--checkpoint", "a.pth", "--checkpoint", "b"]).checkpoint
        assert (one, two) == ([Path("a.pth")], [Path("a.pth"), Path("b")])

    def test_a_list_with_one_detector_is_that_detector(self, tmp_path: Path) -> None:
        tiny = tiny_checkpoint(tmp_path / "tiny.pth")
        assert open_model([tiny]).identity == open_model(tiny).identity

    def test_the_same_detector_twice_is_refused(self, tmp_path: Path) -> None:
        tiny = tiny_checkpoint(tmp_path / "tiny.pth")
        with pytest.raises(BadCheckpoint, match="twice"):
            open_model([tiny, tiny])

    def test_a_setting_that_contradicts_one_detector_is_refused(self, tmp_path: Path) -> None:
        save_segmenter(tmp_path / "seg", preprocessing={"spacing": [2, 2, 2], "clip_range": [-1000, 400]})
        tiny = tiny_checkpoint(tmp_path / "tiny.pth")
        with pytest.raises(BadConfig, match=r"input\.spacing"):
            InferencePipeline([tiny, tmp_path / "seg"], {"input": {"spacing": [1, 1, 1]}}, "cpu")


class Hub(BaseHTTPRequestHandler):
    """Answers like Hugging Face. The files named in `damaged` are sent with a wrong last byte."""

    def __init__(self, *args: Any, files: dict[str, bytes], damaged: set[str], **named: Any) -> None:  # noqa: ANN401
        self.files, self.damaged = files, damaged
        super().__init__(*args, **named)

    def do_GET(self) -> None:
        name = self.path.partition("/resolve/main/")[2]
        if self.path == "/api/models/some/model":
            content = json.dumps({"siblings": [{"rfilename": file} for file in self.files]}).encode()
        elif name in self.files:
            content = self.files[name]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        if name.endswith(".pth"):
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
        elif name:
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            self.send_header("ETag", f'"{blob.hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:-1] + b"!" if name in self.damaged else content)

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, bytes], set[str]]]:
    """A local hub: the files of `some/model`, and the names of those that it damages."""
    save_segmenter(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    files |= {"train.py": b"evil", "../../evil.pth": b"evil"}
    damaged: set[str] = set()
    server = HTTPServer(("127.0.0.1", 0), partial(Hub, files=files, damaged=damaged))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    yield files, damaged
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore")
class TestHub:
    def test_pull_downloads_only_the_needed_files_and_verifies_them_on_use(
        self, hub: tuple[dict[str, bytes], set[str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["models", "pull", "hf://some/model"]) == 0
        assert sorted(path.name for path in (cache_folder() / "some--model").iterdir()) == [
            ".pulled.json",
            "config.yaml",
            "model.pth",
        ]
        assert hashlib.sha256(hub[0]["model.pth"]).hexdigest() in capsys.readouterr().out
        for address in ("hf://some/model", Path("hf://some/model"), "hf://some/model/model.pth"):
            assert open_model(address).about.architecture == "SegResNet"
        (cache_folder() / "some--model" / "config.yaml").write_text("changed: 1")
        with pytest.raises(BadCheckpoint, match="not the file that was pulled"):
            open_model("hf://some/model")

    def test_a_damaged_download_is_deleted(self, hub: tuple[dict[str, bytes], set[str]]) -> None:
        hub[1].add("model.pth")
        assert main(["models", "pull", "hf://some/model"]) == BadCheckpoint.exit_code
        assert not (cache_folder() / "some--model" / "model.pth").exists()

    def test_a_missing_model_gives_the_command_that_downloads_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(BadCheckpoint, match="pivot models pull hf://some/model"):
            local("hf://some/model")
        assert main(["models", "pull", "hf://some/model"]) == BadCheckpoint.exit_code
        printed = capsys.readouterr().err
        assert "on a machine that can" in printed
        assert str(tmp_path / "pivot" / "models" / "some--model") in printed

    def test_a_snapshot_in_the_hugging_face_cache_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        folder = tmp_path / "hf" / "hub" / "models--some--model"
        save_segmenter(folder / "blobs")
        for name in ("refs", "snapshots/abc123"):
            (folder / name).mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc123")
        for name in ("model.pth", "config.yaml"):
            (folder / "snapshots" / "abc123" / name).symlink_to(f"../../blobs/{name}")
        assert open_model("hf://some/model").about.architecture == "SegResNet"

    @pytest.mark.parametrize(
        "address", ["hf://one", "hf://../..", "hf://a/../../etc/passwd", "hf://a/b/../c", "hf:///a"]
    )
    def test_an_invalid_address_is_refused(self, address: str) -> None:
        with pytest.raises(BadCheckpoint, match="no address"):
            open_model(address)


def test_the_table_names_every_known_detector(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(known.name in printed and known.source in printed for known in KNOWN.values())
    assert "size: about 84 MB" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert main(["models", "pull", "duke-dlcs"]) == BadCheckpoint.exit_code
    assert "zenodo" in capsys.readouterr().err
