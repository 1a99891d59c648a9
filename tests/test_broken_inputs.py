"""User mistakes through the real command line: an exit code, a plain message, no output.

`test_broken_scans` tests the messages about broken scans; here each kind goes through the whole command.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.config import load_config
from src.inference.main import main
from src.model.checkpoint import load_model

from .dicom_files import CHEST, shift, write, write_series
from .small_scans import tiny_checkpoint
from .test_broken_scans import BROKEN, member

Arguments = Callable[[Path], list[str]]
SCANS = (
    "no such file",
    "no such folder",
    "unknown suffix",
    "empty folder",
    "text as nii.gz",
    "text as zip",
    "short nii.gz",
    "short mha",
    "damaged gzip",
    "no raw",
    "gzip below its size",
    "too many voxels",
    "2D NIfTI",
    "4D NIfTI",
    "one voxel",
    "constant",
    "nan",
    "rgb",
    "0 to 1",
    "offset",
    "sheared",
    "zero spacing",
)


def scan(name: str) -> Arguments:
    """Arguments with the broken scan of this name as `--input`."""
    return lambda folder: ["--input", str(BROKEN[name][0](folder))]


def good(*arguments: str) -> Arguments:
    """Arguments with a readable scan and these; `{}` stands for the test's folder."""
    return lambda folder: ["--input", str(write(folder, "good.nii.gz")), *(part.format(folder) for part in arguments)]


def only(*arguments: str) -> Arguments:
    """These arguments alone."""
    return lambda folder: [part.format(folder) for part in arguments]


def config(text: str) -> Arguments:
    """Arguments with a readable scan and a configuration of this text."""

    def make(folder: Path) -> list[str]:
        (folder / "config.yaml").write_text(text)
        return good("--config", "{}/config.yaml")(folder)

    return make


def checkpoint(make: Callable[[Path], object], name: str = "broken.pth") -> Arguments:
    """Arguments with a readable scan and a checkpoint that `make` writes or damages."""

    def arguments(folder: Path) -> list[str]:
        make(tiny_checkpoint(folder / name))
        return good("--checkpoint", f"{{}}/{name}")(folder)

    return arguments


def saved(**changes: object) -> Arguments:
    """A checkpoint with changed metadata."""

    def change(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save({key: value for key, value in {**content, **changes}.items() if value is not None}, path)

    return checkpoint(change)


def damaged_weights(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"]["head.2.bias"].fill_(float("nan"))
    torch.save(content, path)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for position in range(2000, len(content), 97):
        content[position] ^= 0xFF
    path.write_bytes(content)


def torchscript_without_words(path: Path) -> None:
    torch.jit.save(torch.jit.trace(load_model(path).model, torch.zeros(1, 1, 8, 8, 8)), path)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def bomb(path: Path) -> None:
    torch.save({"format": "pivot-checkpoint-1", "state_dict": Bomb(path.with_name("exploded"))}, path)


def gap(folder: Path) -> list[str]:
    write_series(folder / "dicom", CHEST, edit=shift(2, lambda instance: 5.0 * (instance > 5)))
    return ["--input", str(folder / "dicom")]


def zip_bomb(folder: Path) -> list[str]:
    """Write an archive whose directory states a member of almost 4 GB in a few bytes."""
    path = member("a.dcm", bytes(100_000))(folder)
    content = bytearray(path.read_bytes())
    size = content.index(b"PK\1\2") + 24
    content[size : size + 4] = b"\xf0\xff\xff\xff"
    path.write_bytes(content)
    return ["--input", str(path)]


def in_place(folder: Path) -> list[str]:
    write(folder / "scans", "a.nii")
    return ["--input-dir", str(folder / "scans"), "--output-dir", str(folder / "scans" / ".." / "scans")]


def file_in_the_way(place: str) -> Arguments:
    """Arguments with a readable scan and an output folder that is a file or below one."""

    def make(folder: Path) -> list[str]:
        (folder / "file").write_text("")
        return good("--output", f"{{}}/{place}")(folder)

    return make


def folder_in_the_way(folder: Path) -> list[str]:
    (folder / "results" / "good_heatmap.nii.gz").mkdir(parents=True)
    return config("output: {save_visualization: false}")(folder)


CASES: dict[str, tuple[Arguments, int, str]] = {
    **{name: (scan(name), 3, BROKEN[name][1]) for name in SCANS},
    "missing slices": (gap, 3, "slices are missing between instance 6"),
    "zip bomb": (zip_bomb, 3, "times its size"),
    "hostile zip": (lambda folder: ["--input", str(member("../a.dcm")(folder))], 3, "holds an unsafe path (../a.dcm)"),
    # folders
    "no such input folder": (only("--input-dir", "{}/none"), 3, "none: there is no such file or folder"),
    "file as input folder": (lambda folder: ["--input-dir", str(write(folder, "a.nii"))], 3, "a.nii: "),
    "folder without scans": (only("--input-dir", "{}"), 3, "holds no scans: supported are"),
    "output into the input": (in_place, 2, "is the input folder"),
    # outputs
    "file as output": (file_in_the_way("file"), 5, "file: it is a file, give a folder"),
    "output below a file": (file_in_the_way("file/x"), 5, "file/x: Not a directory"),
    "folder in place of an output": (folder_in_the_way, 5, "cannot write results: "),
    "output name too long": (good("--output", "{}/" + 300 * "x"), 5, "File name too long"),
    # checkpoints
    "no such checkpoint": (good("--checkpoint", "{}/none.pth"), 4, "none.pth: No such file"),
    "folder as checkpoint": (good("--checkpoint", "{}"), 4, "is no detector of a format that PIVOT knows"),
    "empty checkpoint": (checkpoint(lambda path: path.write_bytes(b"")), 4, "is damaged or not a checkpoint"),
    "text checkpoint": (checkpoint(lambda path: path.write_text("weights")), 4, "broken.pth is "),
    "truncated checkpoint": (checkpoint(shortened), 4, "is damaged or not a checkpoint"),
    "overwritten checkpoint": (checkpoint(overwritten), 4, "broken.pth "),
    "truncated safetensors": (checkpoint(shortened, "broken.safetensors"), 4, "is damaged or not a safetensors file"),
    "pickle bomb": (checkpoint(bomb), 4, "holds pickled code: PIVOT loads plain tensors only, and ran nothing"),
    "weights alone": (checkpoint(lambda path: torch.save({"w": torch.ones(3)}, path)), 4, "holds no PIVOT checkpoint"),
    "list as checkpoint": (checkpoint(lambda path: torch.save([1, 2], path)), 4, "holds no PIVOT checkpoint"),
    "another architecture": (saved(architecture="vnet"), 4, "holds a 'vnet', and this version of PIVOT builds only"),
    "another shape": (saved(hyperparameters={"features": [4, 8]}), 4, "do not fit its hyper-parameters"),
    "endless blocks": (saved(hyperparameters={"features": [4], "extra_blocks": [10**12]}), 4, "numbers of 0 to 8"),
    "another hyper-parameter": (saved(hyperparameters={"depth": 3}), 4, "do not fit its hyper-parameters"),
    "another format": (saved(format="pivot-checkpoint-9"), 4, "has format 'pivot-checkpoint-9', this version"),
    "no format": (saved(format=None), 4, "has format None"),
    "invalid preprocessing": (
        saved(preprocessing={"spacing": "fine"}),
        4,
        "has a wrong description: check preprocessing",
    ),
    "NaN weights": (checkpoint(damaged_weights), 4, "weights that are NaN or infinite (head.2.bias)"),
    # configurations
    "no such config": (good("--config", "{}/none.yaml"), 2, "cannot read the config"),
    "folder as config": (good("--config", "{}"), 2, "cannot read the config"),
    "broken YAML": (config("inference: [1, 2"), 2, "config.yaml is not valid YAML"),
    "tab in YAML": (config("inference:\n\tmode: sliding_window"), 2, "config.yaml is not valid YAML"),
    "code in YAML": (config("a: !!python/object/apply:os.system [true]"), 2, "is not valid YAML"),
    "list as config": (config("- 1\n- 2"), 2, "must hold sections such as `inference:`, not a list"),
    "text as section": (config("inference: fast"), 2, "config.yaml cannot be used:\n  inference: "),
    "misspelt key": (config("inference: {batchsize: 4}"), 2, "batchsize: unknown key; did you mean batch_size?"),
    "misspelt section": (config("inferenze: {}"), 2, "inferenze: unknown key; did you mean inference?"),
    "misspelt nested key": (config("post_processing: {nms: {iou: 0.3}}"), 2, "post_processing.nms.iou: unknown key"),
    "text as number": (config("inference: {batch_size: four}"), 2, "inference.batch_size: "),
    "two patch sizes": (config("inference: {patch_size: [64, 64]}"), 2, "inference.patch_size"),
    "threshold of 5": (config("post_processing: {peak_detection: {threshold: 5}}"), 2, "peak_detection.threshold: "),
    "NaN threshold": (config("post_processing: {peak_detection: {threshold: .nan}}"), 2, "peak_detection.threshold: "),
    "NaN window": (config("input: {clip_range: [.nan, 400]}"), 2, "input.clip_range.0: "),
    "infinite window": (config("input: {clip_range: [-1000, .inf]}"), 2, "input.clip_range.1: "),
    "boolean as number": (
        config("inference: {batch_size: true}"),
        2,
        "inference.batch_size: must not be true or false",
    ),
    "boolean in a list": (
        config("inference: {patch_size: [true, 64, 64]}"),
        2,
        "patch_size: must not be true or false, but is [True, 64, 64]",
    ),
    "overlap of 0.999": (config("inference: {overlap: 0.999}"), 2, "inference.overlap: "),
    "a single view": (
        config("inference: {tta: {enabled: true, num_augmentations: 1}}"),
        2,
        "num_augmentations is 1, which",
    ),
    "repeated view": (config("inference: {tta: {augmentations: [flip_x, flip_x]}}"), 2, "has a repeated value"),
    "speed with whole volume": (config("inference: {mode: whole_volume, speed: fast}"), 2, "keep one of the two"),
    "stride against overlap": (config("inference: {stride: [32, 32, 32], overlap: 0.5}"), 2, "contradicts overlap 0.5"),
    "stride larger than the patch": (
        config("inference: {patch_size: [64, 64, 64], stride: [96, 96, 96]}"),
        2,
        "stride [96, 96, 96] leaves gaps between patches of [64, 64, 64]",
    ),
    "patch against model": (config("inference: {patch_size: [30, 30, 30]}"), 2, "use multiples of 16"),
    "empty window": (config("input: {clip_range: [400, -1000]}"), 2, "clip_range [400.0, -1000.0] is empty"),
    "minimum size too large": (
        config("post_processing: {size_filter: {min_diameter: 40}}"),
        2,
        "min_diameter 40.0 is larger",
    ),
    "contradicting devices": (
        config("model: {device: cpu}\ninference: {device: cuda}"),
        2,
        "model.device is 'cpu', but inf",
    ),
    "unknown device in config": (config("model: {device: tpu}"), 2, "model.device: "),
    "unknown mode": (config("inference: {mode: fast}"), 2, "inference.mode: "),
    "unknown augmentation": (config("inference: {tta: {augmentations: [flip_t]}}"), 2, "tta.augmentations.0: "),
    "unknown architecture": (config("model: {architecture: retinanet}"), 2, "model.architecture: "),
    "unknown colormap": (config("visualization: {colormap: hott}"), 2, "unknown colormap 'hott'"),
    "spacing against model": (config("input: {spacing: [2, 2, 2]}"), 2, "input.spacing is (2.0, 2.0, 2.0), but"),
    "zscore against model": (config("input: {normalization_method: zscore}"), 2, "normalization_method is 'zscore'"),
    "no output": (
        config("output: {save_heatmap: false, save_detections: false, save_visualization: false}"),
        2,
        "nothing would be written",
    ),
    "format without detections": (
        lambda folder: [*config("output: {save_detections: false}")(folder), "--format", "csv"],
        2,
        "--format csv, but output.save_detections is false",
    ),
    "no such checkpoint in config": (config("model: {checkpoint: none.pth}"), 4, "cannot read the checkpoint none.pth"),
    # the command line
    "no arguments": (only(), 2, "one of the arguments --input --input-dir --dicomweb --demo is required"),
    "misspelt command": (only("exprot"), 2, "unknown command exprot: did you mean export?"),
    "scan without --input": (
        only("a.nii.gz"),
        2,
        "unknown command a.nii.gz: to search a scan, give --input a.nii.gz",
    ),
    "two inputs": (good("--input-dir", "{}"), 2, "argument --input-dir: not allowed with argument --input"),
    "input and demo": (good("--demo"), 2, "argument --demo: not allowed with argument --input"),
    "unknown option": (good("--treshold", "0.5"), 2, "unrecognized arguments: --treshold 0.5"),
    "shortened option": (good("--check", "x"), 2, "unrecognized arguments: --check x"),
    "empty input": (only("--input", ""), 2, "argument --input: must not be empty"),
    "empty output": (good("--output", ""), 2, "argument --output: must not be empty"),
    "--output-dir with --input": (good("--output-dir", "{}/out"), 2, "--output-dir goes with --input-dir"),
    "--output with --input-dir": (only("--input-dir", "{}", "--output", "{}/out"), 2, "use --output-dir"),
    "workers for one scan": (good("--num-workers", "2"), 2, "--num-workers goes with --input-dir"),
    "resume a demo": (only("--demo", "--resume"), 2, "--resume goes with --input or --input-dir"),
    "batch size 0": (good("--batch-size", "0"), 2, "--batch-size: must be a whole number of at least 1, not '0'"),
    "text as batch size": (good("--batch-size", "many"), 2, "--batch-size: must be a whole number of at"),
    "huge batch size": (good("--batch-size", "99999"), 2, "inference.batch_size: "),
    "workers below 0": (only("--input-dir", "{}", "--num-workers=-1"), 2, "--num-workers: must be a whole number"),
    "unknown device": (good("--device", "gpu"), 2, "unknown device 'gpu': use auto, cpu, cuda, cuda:1 or mps"),
    "unknown cuda device": (good("--device", "cuda:x"), 2, "unknown device 'cuda:x'"),
    "unknown format": (good("--format", "xml"), 2, "argument --format: invalid choice: 'xml'"),
    "unknown progress": (good("--progress", "dots"), 2, "argument --progress: invalid choice: 'dots'"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_has_its_exit_code_a_plain_message_and_no_output(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, code, fragment = CASES[name]
    monkeypatch.chdir(tmp_path)
    arguments = make(tmp_path)
    made = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert fragment in printed.err
    assert "Traceback" not in printed.err
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == made


def test_an_empty_section_keeps_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model:\ninference:\noutput: {save_report: true}\n")
    assert load_config(path) == load_config({"output": {"save_report": True}})
