"""The deployment files: well-formed, with settings and modules that exist."""

import configparser
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.api.settings import Settings

KNOWN = {f"PIVOT_{name.upper()}" for name in Settings.model_fields}
FILES = ("Dockerfile", "compose.yaml", "pivot.service", "kubernetes/pivot.yaml")


def _documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_yaml_files_are_well_formed(root: Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "yamllint",
        "--strict",
        "-c",
        root / ".yamllint.yaml",
        root / "deploy",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", FILES)
def test_only_existing_settings_and_modules_are_named(root: Path, name: str) -> None:
    text = (root / "deploy" / name).read_text(encoding="utf-8")
    assert set(re.findall(r"PIVOT_[A-Z_]+", text)) <= KNOWN
    assert {f"PIVOT_{secret.upper()}" for secret in re.findall(r"pivot_(\w*(?:url|keys))", text)} <= KNOWN
    modules = re.findall(r"pivot\.api\.\w+", text)
    assert modules
    for module in modules:
        assert importlib.util.find_spec(module.replace("pivot", "src", 1)), module


def test_exactly_the_existing_settings_are_documented(root: Path) -> None:
    text = (root / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert set(re.findall(r"PIVOT_[A-Z_]+", text)) == KNOWN


def test_images_have_pinned_versions(root: Path) -> None:
    """PIVOT's own images, such as `pivot:cpu`, are built from this checkout."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((root / "deploy").rglob("*")) if path.is_file())
    images = re.findall(r"(?:_IMAGE=|_IMAGE:-|image: )([a-z][\w-]*):([\w.-]+)", text)
    assert {name for name, _ in images} == {"node", "pivot", "pivot-ray", "postgres", "python"}
    assert [f"{name}:{tag}" for name, tag in images if name != "pivot" and not re.match(r"\d+\.\d+", tag)] == []
    bases = [(name, tag) for name, tag in images if name in ("node", "python")]
    assert all(re.match(r"\d+\.\d+\.\d+-", tag) for _, tag in bases), bases


def test_services_select_their_pods_and_pods_their_volumes(root: Path) -> None:
    documents = _documents(root / "deploy" / "kubernetes" / "pivot.yaml")
    pods = [document["spec"]["template"] for document in documents if document["kind"] == "Deployment"]
    claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
    (service,) = (document["spec"] for document in documents if document["kind"] == "Service")
    (served,) = (pod for pod in pods if service["selector"].items() <= pod["metadata"]["labels"].items())
    ports = [port["name"] for port in served["spec"]["containers"][0]["ports"]]
    assert [port["targetPort"] for port in service["ports"]] == ports
    for document, pod in zip((d for d in documents if d["kind"] == "Deployment"), pods, strict=True):
        assert document["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] in claims
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            assert container["securityContext"]["readOnlyRootFilesystem"]


def test_every_container_has_limits_and_the_network_has_policies(root: Path) -> None:
    documents = _documents(root / "deploy" / "kubernetes" / "pivot.yaml")
    pods = [document["spec"]["template"] for document in documents if document["kind"] == "Deployment"]
    assert all(container["resources"]["limits"]["memory"] for pod in pods for container in pod["spec"]["containers"])
    policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    for pod in pods:
        labels = pod["metadata"]["labels"].items()
        mine = [policy for policy in policies if policy["podSelector"]["matchLabels"].items() <= labels]
        assert {kind for policy in mine for kind in policy["policyTypes"]} == {"Ingress", "Egress"}
    (composed,) = _documents(root / "deploy" / "compose.yaml")
    assert all(service["mem_limit"] for service in composed["services"].values())
    assert composed["x-pivot"]["ulimits"]["nofile"]["hard"] > 1000
    unit = (root / "deploy" / "pivot.service").read_text(encoding="utf-8")
    for setting in ("MemoryMax", "LimitNOFILE", "UMask=0077", "SystemCallFilter=@system-service landlock_"):
        assert setting in unit
    for text in (unit, (root / "deploy" / "Dockerfile").read_text(encoding="utf-8")):
        assert "--limit-concurrency" in text.replace('"', "")


def test_images_install_the_locked_versions(root: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if not uv:
        pytest.skip("needs uv")
    text = (root / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    steps = text[text.index("uv export") : text.index("FROM ${PYTHON_IMAGE}\nARG")].replace("/wheels/", f"{tmp_path}/")
    shell = shutil.which("sh") or "sh"
    done = subprocess.run([shell, "-ec", steps.replace("uv export", f"{uv} export --quiet")], cwd=root, check=False)
    assert done.returncode == 0
    found = {}
    for name in ("cpu", "cuda"):
        content = (tmp_path / f"{name}.txt").read_text(encoding="utf-8")
        entries = re.split(r"(?m)^(?=[\w-]+==)", content)[1:]
        assert all("--hash=sha256:" in entry for entry in entries)
        found[name] = {entry.partition("==")[0] for entry in entries}
    assert "torch" in found["cuda"]
    assert {"pydicom", "psycopg", "sympy"} <= found["cpu"] < found["cuda"]  # the dependencies of torch are locked too
    assert not [name for name in found["cpu"] if name.startswith(("torch", "triton", "nvidia-", "cuda-"))]
    assert re.fullmatch(r"torch==[\d.]+\s*", (tmp_path / "torch.txt").read_text(encoding="utf-8"))


def test_compose_services_have_their_secrets_and_volumes(root: Path) -> None:
    (composed,) = _documents(root / "deploy" / "compose.yaml")
    for service in composed["services"].values():
        assert set(service["secrets"]) <= composed["secrets"].keys()
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= composed["volumes"].keys()
    assert (root / "deploy" / composed["x-pivot"]["build"]["context"] / "deploy" / "Dockerfile").is_file()


def test_systemd_can_read_its_unit(root: Path, tmp_path: Path) -> None:
    unit = root / "deploy" / "pivot.service"
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(unit.read_text(encoding="utf-8"))
    assert parser["Service"]["ExecStart"].startswith("/opt/pivot/bin/python -m uvicorn pivot.api.app:app")
    verify = shutil.which("systemd-analyze")
    if verify:
        copy = tmp_path / "pivot.service"
        copy.write_text(unit.read_text(encoding="utf-8").replace("/opt/pivot/bin/python", sys.executable))
        done = subprocess.run([verify, "verify", copy], capture_output=True, text=True, check=False)
        assert "pivot.service:" not in done.stderr, done.stderr
