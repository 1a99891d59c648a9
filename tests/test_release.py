"""What a release needs: a complete bill of materials, the right tag, and a valid model card."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import src


def _workflow(root: Path) -> dict[str, Any]:
    text = (root / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def _commands(root: Path) -> list[str]:
    return [step["run"] for job in _workflow(root)["jobs"].values() for step in job["steps"] if "run" in step]


def test_the_bill_of_materials_names_every_dependency(root: Path, tmp_path: Path) -> None:
    if not shutil.which("uv"):
        pytest.skip("needs uv")
    [command] = [command for command in _commands(root) if command.startswith("uv export")]
    bill = tmp_path / "bill.json"
    script = command.replace("sbom/pivot.cdx.json", str(bill)).replace("uv export", "uv export --offline")
    subprocess.run(["bash", "-euc", script], cwd=root, check=True)  # noqa: S607

    made = json.loads(bill.read_text(encoding="utf-8"))

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = [*project["dependencies"], *extras]
    assert made["specVersion"] == "1.5"
    assert {Requirement(line).name for line in wanted} <= {part["name"] for part in made["components"]}


@pytest.mark.parametrize(("tag", "code"), [(f"v{src.__version__}", 0), ("v99.0", 1)])
def test_a_release_must_have_the_tag_of_its_version(root: Path, tag: str, code: int) -> None:
    [command] = [command for command in _commands(root) if "GITHUB_REF_NAME" in command and "__version__" in command]
    done = subprocess.run(["bash", "-euc", command], cwd=root, env={"GITHUB_REF_NAME": tag}, check=False)  # noqa: S607
    assert done.returncode == code


def test_only_jobs_that_publish_may_write(root: Path) -> None:
    workflow = _workflow(root)
    assert workflow["permissions"] == {"contents": "read"}
    allowed = {name: job.get("permissions", {}) for name, job in workflow["jobs"].items()}
    writers = {name for name, rights in allowed.items() if "write" in rights.values()}
    assert writers == {"index", "image", "notes"}


def test_the_model_cards_front_matter_agrees_with_its_text(root: Path) -> None:
    text = (root / "checkpoints" / "MODEL_CARD.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    [entry] = about["model-index"]
    assert re.search(rf"^# Model card: {entry['name']}$", body, re.MULTILINE)
    for metric in entry["results"][0]["metrics"]:
        limits = re.search(r"\(.*\)", metric["name"])
        assert limits
        assert f"| {metric['value']} {limits[0]} |" in body
