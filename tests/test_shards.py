"""Splitting a folder among independent commands, and the Kubernetes manifest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BadConfig
from src.inference.main import main
from src.runs.sharding import shard_of

from .small_scans import block, save_nifti, tiny_checkpoint


@given(st.lists(st.text(), unique=True, max_size=60), st.integers(1, 80))
def test_every_scan_is_in_exactly_one_part_and_the_parts_are_even(names: list[str], count: int) -> None:
    parts = [shard_of(names, index, count) for index in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert parts == [shard_of(list(names), index, count) for index in range(count)]


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_part_that_does_not_exist_is_refused(index: int, count: int) -> None:
    with pytest.raises(BadConfig, match=f"no part {index} of {count}"):
        shard_of(["a"], index, count)


def test_the_parts_of_a_folder_process_every_scan_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        save_nifti(block()[0], tmp_path / "scans" / f"{name}.nii.gz")
    checkpoint, config = tiny_checkpoint(tmp_path / "tiny.pth"), tmp_path / "quick.yaml"
    config.write_text("output: {save_visualization: false}")
    command = ["--input-dir", tmp_path / "scans", "--output-dir", tmp_path / "out", "--config", config]
    command += ["--checkpoint", checkpoint, "--num-shards", 4, "--progress", "json"]
    for index in range(4):
        assert main([str(part) for part in [*command, "--shard-index", index]]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["scan_id"] for event in events if event["event"] == "finished"] == ["a", "b", "c"]
    assert [event["num_scans"] for event in events if event["event"] == "summary"] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input-dir", "a", "--num-shards", "2"], "--num-shards and --shard-index go together"),
        (["--input-dir", "a", "--shard-index", "0"], "--num-shards and --shard-index go together"),
        (["--input", "a", "--num-shards", "2", "--shard-index", "0"], "--num-shards goes with --input-dir"),
        (["--input-dir", "a", "--num-shards", "0", "--shard-index", "0"], "whole number of at least 1"),
        (["--input-dir", ".", "--num-shards", "2", "--shard-index", "2"], "no part 2 of 2"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.nii").touch()
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_manifest_is_valid_and_matches_the_documentation(root: Path) -> None:
    path = root / "deploy" / "kuberay.yaml"
    rules = "{extends: default, rules: {line-length: {max: 120}, braces: {max-spaces-inside: 0}}}"
    subprocess.run([sys.executable, "-m", "yamllint", "--strict", "-d", rules, path], check=True)
    claim, cluster = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = cluster["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [workers] = spec["workerGroupSpecs"]
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
