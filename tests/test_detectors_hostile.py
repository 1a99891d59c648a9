"""A hostile model is refused with the reason. PIVOT executes none of its code and opens no file outside its folder."""

import json
import os
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.detectors.opening import open_model
from src.errors import BadCheckpoint
from tests.foreign_models import INFERER, SELECTION, bundle_config, save_bundle, save_segmenter

RUN = "__import__('pathlib').Path('{}').write_text('executed')"
Change = Callable[[dict[str, Any], str], None]


def put(*keys: Any, value: Any) -> Change:  # noqa: ANN401
    """Return a change of the configuration at these keys. RUN in the value is replaced by code that creates a file."""

    def change(config: dict[str, Any], run: str) -> None:
        part: Any = config
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = json.loads(json.dumps(value).replace("RUN", run))

    return change


HOSTILE: dict[str, tuple[Change, str]] = {
    "an expression for a number": (put("num_classes", value="$RUN"), "no plain value"),
    "an expression for anchors": (put("anchor_generator", "base_anchor_shapes", value="$[RUN]"), "no plain value"),
    "an expression in a list": (put("size_divisible", value=[16, "$RUN", 8]), "no plain value"),
    "an expression for the backbone": (put("backbone", value="$RUN"), "no call|no component"),
    "an expression as an argument": (
        put("backbone", value="$monai.networks.nets.resnet.resnet10(spatial_dims=RUN)"),
        "plain arguments",
    ),
    "unpacked arguments": (
        put("backbone", value="$monai.networks.nets.resnet.resnet10(**dict(spatial_dims=3))"),
        "plain arguments",
    ),
    "two expressions": (put("detector_ops", 0, value="$(@detector.set_target_keys('box','label'), RUN)"), "no call"),
    "a lambda": (put("detector_ops", 0, value="$(lambda d: RUN)(@detector)"), "no component|no call|refused"),
    "an unknown target": (put("network_def", "_target_", value="os.system"), "no component"),
    "a target of the bundle's own scripts": (put("network_def", "_target_", value="scripts.net.RetinaNet"), "no comp"),
    "a target of subprocess": (
        put("anchor_generator", value={"_target_": "subprocess.call", "args": ["touch", "x"]}),
        "no component",
    ),
    "a call of subprocess": (put("feature_extractor", value="$subprocess.call(['touch', 'x'])"), "no component"),
    "a known name of another module": (
        put("backbone", value="$evil.resnet10(spatial_dims=3)"),
        "no component",
    ),
    "a backbone that is downloaded": (
        put(
            "feature_extractor",
            value="$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor(@backbone,3,True,[1,2])",
        ),
        "pretrained_backbone",
    ),
    "weights at an absolute path": (put("handlers", 0, "load_path", value="/etc/passwd"), "loads"),
    "weights in a parent folder": (put("handlers", 0, "load_path", value="$@bundle_root + '/../../model.pt'"), "loads"),
    "an unknown transform": (
        put("preprocessing", "transforms", 5, value={"_target_": "Lambdad", "keys": "image", "func": "$RUN"}),
        "Lambdad",
    ),
    "a transform that moves the scan": (
        put("preprocessing", "transforms", 5, value={"_target_": "Flipd", "keys": "image", "spatial_axis": 0}),
        "Flipd",
    ),
    "an unknown transform after the network": (
        put("postprocessing", "transforms", 0, value={"_target_": "monai.apps.detection.transforms.Evil"}),
        "Evil",
    ),
    "another interpolation": (put("preprocessing", "transforms", 3, "mode", value="nearest"), "mode"),
    "no clipping": (put("preprocessing", "transforms", 4, "clip", value=False), "clip"),
    "other coder weights": (
        put("detector_ops", 0, value="$@detector.set_box_coder_weights((1.0,1.0,1.0,1.0,1.0,1.0))"),
        "does not know",
    ),
    "a setting given twice": (put("detector_ops", 0, value=SELECTION), "twice"),
    "no sliding windows": (put("detector_ops", 2, value="$None"), "not called"),
    "weights loaded by an initializer": (put("initialize", value=["$@network.load_state_dict({})"]), "refused"),
    "an unknown argument of the network": (put("network_def", "use_magic", value=True), "use_magic"),
    "an override of another part": (put("network_def#num_anchors", value=9), "changes another part"),
    "a huge patch": (put("infer_patch_size", value=[10**9] * 3), "patch_size"),
    "too many classes": (put("num_classes", value=10**9), "num_classes"),
    "a negative spacing": (put("preprocessing", "transforms", 3, "pixdim", value=[-1, 1, 1]), "spacing"),
    "a circular reference": (put("num_classes", value="@num_classes"), "no plain value"),
    "a reference to a missing key": (put("num_classes", value="@nothing"), "refers to nothing"),
    "a long expression": (put("backbone", value="$" + "(" * 3000 + ")" * 3000), "refused"),
    "a deep expression": (put("backbone", value="$f(" + "[" * 400 + "]" * 400 + ")"), "refused"),
    "a macro": (put("num_classes", value="%../../secret.json#x"), "no plain value"),
    "text for a number": (put("network_def", "num_anchors", value="3; RUN"), "num_anchors"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(folder)
    return folder / "models" / "model.pt"


def bundle_of(folder: Path, weights: Path, config: dict[str, Any] | str) -> Path:
    """Write a bundle with this configuration and a hard link to the weights."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "configs" / "inference.json").write_text(text)
    os.link(weights, folder / "models" / "model.pt")
    return folder


@pytest.mark.parametrize("name", [*HOSTILE])
def test_a_hostile_configuration_is_refused(tmp_path: Path, weights: Path, name: str) -> None:
    config, (change, message) = bundle_config(), HOSTILE[name]
    trace = tmp_path / "trace"
    change(config, RUN.format(trace))
    with pytest.raises(BadCheckpoint, match=message):
        open_model(bundle_of(tmp_path / "bundle", weights, config))
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore")
def test_expressions_beside_the_detector_are_never_executed(tmp_path: Path, weights: Path) -> None:
    config, trace = bundle_config(), tmp_path / "trace"
    for key in ("imports", "initialize", "run", "test_datalist"):
        config[key] = [f"${RUN.format(trace)}"]
    config["dataset"] = {"_target_": "os.system", "command": f"touch {trace}"}
    loaded = open_model(bundle_of(tmp_path / "bundle", weights, config))
    assert loaded.identity["architecture"] == "RetinaNet"
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "cannot be read"),
        ("[1, 2]", "no keys"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"a": "' + "x" * 2**22 + '"}', "more than"),
    ],
    ids=["a duplicate key", "NaN", "deep nesting", "a list", "a huge number", "a huge file"],
)
def test_a_malformed_configuration_is_refused(tmp_path: Path, weights: Path, text: str, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        open_model(bundle_of(tmp_path / "bundle", weights, text))


class Executes:
    """Creates a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_is_refused_with_instructions_for_conversion(tmp_path: Path, *, wrapped: bool) -> None:
    save_segmenter(tmp_path / "model")
    evil = Executes(tmp_path / "trace")
    content = {"state_dict": {"a": torch.zeros(1)}, "extra": evil} if wrapped else evil
    torch.save(content, tmp_path / "model" / "model.pth")
    with pytest.raises(BadCheckpoint, match=r"PIVOT ran nothing.*torch\.save"):
        open_model(tmp_path / "model")
    (tmp_path / "model" / "model.pth").write_bytes(pickle.dumps(evil))
    with pytest.raises(BadCheckpoint):
        open_model(tmp_path / "model")
    assert not (tmp_path / "trace").exists()


@pytest.mark.filterwarnings("ignore")
def test_numpy_numbers_are_ignored_and_allow_no_other_pickled_object(tmp_path: Path) -> None:
    network, before = save_segmenter(tmp_path / "model"), torch.serialization.get_safe_globals()
    log = {"dice": [np.float64(0.5), np.float32(0.25)], "epoch": np.int64(7)}
    torch.save({"state_dict": network.state_dict(), "log": log}, tmp_path / "model" / "model.pth")
    assert open_model(tmp_path / "model").about.architecture == "SegResNet"
    state = {"state_dict": network.state_dict(), "log": log, "extra": Executes(tmp_path / "trace")}
    torch.save(state, tmp_path / "model" / "model.pth")
    with pytest.raises(BadCheckpoint, match="PIVOT ran nothing"):
        open_model(tmp_path / "model")
    assert not (tmp_path / "trace").exists()
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.full((2,), np.nan)}, "NaN"),
        ({"a": 1}, "no plain tensor"),
        ({"a": torch.zeros(2).to_sparse()}, "no plain tensor"),
        ({"a": torch.zeros(2, device="meta")}, "no plain tensor"),
        ({}, "no weights"),
        ([torch.zeros(2)], "no weights"),
        ({"a": torch.zeros(1).expand(10**9)}, "no plain tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_invalid_weights_are_refused(tmp_path: Path, state: Any, message: str) -> None:  # noqa: ANN401
    save_segmenter(tmp_path / "model")
    torch.save(state, tmp_path / "model" / "model.pth")
    with pytest.raises(BadCheckpoint, match=message):
        open_model(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.pth", "config.yaml"])
def test_a_link_to_a_file_outside_the_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    save_segmenter(tmp_path / "model")
    outside = (tmp_path / "model" / name).rename(tmp_path / f"outside-{name}")
    (tmp_path / "model" / name).symlink_to(outside)
    with pytest.raises(BadCheckpoint, match="outside"):
        open_model(tmp_path / "model")


class TestZips:
    @staticmethod
    def zipped(folder: Path, path: Path, top: str = "") -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, f"{top}{file.relative_to(folder)}")
        return path

    @pytest.mark.parametrize("top", ["", "nodules-1.0/"])
    @pytest.mark.filterwarnings("ignore")
    def test_a_zip_is_read_like_its_folder(self, tmp_path: Path, top: str) -> None:
        save_segmenter(tmp_path / "model")
        one, other = (
            open_model(tmp_path / "model"),
            open_model(self.zipped(tmp_path / "model", tmp_path / "m.zip", top)),
        )
        assert one.sha256 == other.sha256
        assert not list(tmp_path.glob("nodules*"))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("../evil.txt", "leads outside"),
            ("/etc/evil.txt", "leads outside"),
            ("a/../../evil.txt", "leads outside"),
            ("C:\\evil.txt", "leads outside"),
        ],
    )
    def test_member_names_outside_the_archive_are_refused(self, tmp_path: Path, name: str, message: str) -> None:
        save_segmenter(tmp_path / "model")
        path = self.zipped(tmp_path / "model", tmp_path / "m.zip")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, "evil")
        with pytest.raises(BadCheckpoint, match=message):
            open_model(path)
        assert not list(tmp_path.parent.glob("evil*"))

    def test_a_link_in_a_zip_is_refused(self, tmp_path: Path) -> None:
        save_segmenter(tmp_path / "model")
        path = self.zipped(tmp_path / "model", tmp_path / "m.zip")
        info = zipfile.ZipInfo("link.pth")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, "/etc/passwd")
        with pytest.raises(BadCheckpoint, match="is a link"):
            open_model(path)

    def test_a_zip_bomb_is_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.yaml", b"a: 1\n")
            archive.writestr("model.pth", b"\0" * 50_000_000)
        with pytest.raises(BadCheckpoint, match="grows"):
            open_model(tmp_path / "m.zip")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04garbage", b"no zip at all"])
    def test_a_damaged_zip_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.zip").write_bytes(content)
        with pytest.raises(BadCheckpoint, match="damaged or no zip"):
            open_model(tmp_path / "m.zip")


def test_a_folder_in_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no detector of a format"):
        open_model(tmp_path)


def test_the_unchanged_bundle_is_read_with_its_settings(tmp_path: Path) -> None:
    assert "roi_size=@infer_patch_size" in INFERER
    save_bundle(tmp_path / "bundle")
    settings = open_model(tmp_path / "bundle").identity
    assert settings["windows"]["patch_size"] == [32, 32, 16]
    assert settings["output"]["nms_thresh"] == pytest.approx(0.22)
