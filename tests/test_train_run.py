"""Training runs on tiny data: checkpoints, resuming, and agreement between processes."""

import copy
import json
import logging
import socket
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from src.data.geometry import RAS_TO_LPS
from src.errors import BadConfig
from src.model.checkpoint import load_model, save_checkpoint
from src.model.unet import UNet
from src.train.config import TrainConfig, load_train_config
from src.train.journal import Journal
from src.train.main import main
from src.train.parallel import Workers, workers
from src.train.run import Run
from src.train.sources import load_background
from src.train.trainer import train
from tests.training_data import chest, tiny_config, write_crops, write_luna16

CPU = Workers(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_luna16(folder / "luna16", ["subset0", "subset9"])
    write_crops(folder / "crops")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def config(home: Path, folder: Path, **changes: Any) -> TrainConfig:  # noqa: ANN401
    return tiny_config(home, **{"run": folder / "run", "checkpoint": folder / "model.pth"} | changes)


def weights(run: Run) -> dict[str, torch.Tensor]:
    average = {f"average.{key}": value for key, value in run.average.state_dict().items()}
    return {**run.model.state_dict(), **average}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(data, tmp_path / "whole"), CPU)
    broken = config(data, tmp_path / "broken", save_every=2)
    train_step = Run.train_step

    def killed(run: Run, batch: Any) -> Any:  # noqa: ANN401
        if run.step == 5:
            raise KeyboardInterrupt
        return train_step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(broken, CPU)
    assert not broken.checkpoint.exists()
    assert torch.load(broken.run / "state.pth", weights_only=True)["progress"]["step"] == 4
    resumed = train(broken, CPU)
    assert resumed.step == whole.step == 6
    assert_equal(weights(resumed), weights(whole))
    about = load_model(broken.checkpoint).about
    assert (about.training["steps"], about.training["exported_step"]) == (6, 6)
    assert about.training["validation_scans"] == ["1.2.826.0.1"]
    assert {"luna16_at_1", "luna16_at_4", "score"} <= about.results.keys()


def test_a_run_interrupted_before_mining_and_validation_does_both_when_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(data, tmp_path, steps=4, mine_every=2, validate_every=2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("src.train.trainer._mine", killed)
        with pytest.raises(KeyboardInterrupt):
            train(chosen, CPU)
    run = train(chosen, CPU)
    assert (run.mined, run.validated) == (2, 4)
    assert [line["step"] for line in lines(chosen.run / "validation.jsonl")] == [2, 4]


def test_states_of_the_first_version_can_be_resumed(data: Path, tmp_path: Path) -> None:
    chosen = config(data, tmp_path, steps=3)
    run = Run(chosen, CPU, ["1.2.826.0.0"])
    chosen.run.mkdir()
    run.step = 2
    run.save()
    state = torch.load(run.state_file, weights_only=True)
    old = {key: state[key] for key in ("model", "average", "optimizer", "hard")}
    torch.save({**old, "progress": {"step": 2, "best": -1.0, "seconds": 5.0}}, run.state_file)
    assert train(chosen, CPU).step == 3
    assert [line["step"] for line in lines(chosen.run / "training.jsonl")] == [3]


@pytest.mark.parametrize(("share", "changes"), [(1.0, True), (0.0, False)])
def test_frozen_norms_keep_their_statistics_and_continue_to_learn(
    data: Path, tmp_path: Path, share: float, *, changes: bool
) -> None:
    run = Run(config(data, tmp_path, freeze_norms=share), CPU, [])
    before = copy.deepcopy(run.model.state_dict())
    image, zeros = torch.rand(2, 1, 16, 16, 16), torch.zeros(2, 8, 8, 8)
    run.train_step([image, zeros, zeros, zeros + 1])
    after = run.model.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert ("stem.1.running_var" in moved) == changes
    assert {"stem.0.weight", "stem.1.weight"} <= moved


def test_norms_freeze_at_their_running_average(data: Path, tmp_path: Path) -> None:
    run = Run(config(data, tmp_path, freeze_norms=0.0), CPU, [])
    image, zeros = torch.rand(2, 1, 16, 16, 16), torch.zeros(2, 8, 8, 8)
    for variance in (2.5, 3.5):  # the norms freeze once
        run.average.get_buffer("stem.1.running_var").fill_(variance)
        run.train_step([image, zeros, zeros, zeros + 1])
        assert run.model.get_buffer("stem.1.running_var").unique().tolist() == [2.5]


def test_crops_and_backgrounds_suffice_for_training_from_given_weights(data: Path, tmp_path: Path) -> None:
    source: dict[str, Any] = {
        "luna16": None,
        "luna16_validation_subset": None,
        "data": data / "crops",
        "train_backgrounds": [{"name": "one", "has_opacities": True}],
        "validation_background": "two",
        "steps": 1,
    }
    first = train(config(data, tmp_path / "first", **source), CPU)
    assert {"planted_at_1", "crops_at_4", "threshold_at_4", "score"} <= first.figures.keys()
    later = config(data, tmp_path / "later", initial=first.config.checkpoint, **source)
    run = Run(later, CPU, ["one"])
    kept = first.average.state_dict()
    for key, value in run.model.state_dict().items():
        torch.testing.assert_close(value, kept[key], rtol=1e-3, atol=1e-6)  # kernels are stored as float16
    about = load_model(first.config.checkpoint).about
    assert about.training["validation_patients"] == ["c"]
    doubled = {key: 2 * value if value.is_floating_point() else value for key, value in kept.items()}
    save_checkpoint(tmp_path / "doubled.pth", doubled, about)
    both = config(data, tmp_path / "both", initial=[first.config.checkpoint, tmp_path / "doubled.pth"], **source)
    for key, value in Run(both, CPU, ["one"]).model.state_dict().items():
        expected = 1.5 * kept[key] if value.is_floating_point() else kept[key]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6)
    deeper = config(data, tmp_path / "deeper", initial=first.config.checkpoint, extra_blocks=[0, 1, 2], **source)
    image = torch.rand(1, 1, 32, 16, 32)
    grown, plain = (Run(one, CPU, ["one"]).model.eval() for one in (deeper, later))
    assert len(grown.state_dict()) > len(plain.state_dict())
    assert torch.equal(grown.logits(image), plain.logits(image))
    trained = load_model(train(deeper, CPU).config.checkpoint)
    assert trained.about.hyperparameters == {"features": [4, 8, 8, 8], "extra_blocks": [0, 1, 2]}
    shallow = config(data, tmp_path, initial=deeper.checkpoint, **source)
    with pytest.raises(BadConfig, match=r"initial: .*'extra_blocks': \[0, 1, 2\].*but the configuration"):
        Run(shallow, CPU, ["one"])
    other = config(data, tmp_path, features=[4, 8, 8], initial=first.config.checkpoint, **source)
    with pytest.raises(BadConfig, match=r"initial: .*\[4, 8, 8, 8\].*\[4, 8, 8\]"):
        Run(other, CPU, ["one"])


def test_excluded_places_count_as_neither_true_nor_false(data: Path, tmp_path: Path) -> None:
    affine, voxel = chest()[0].affine, np.array([20.0, 30.0, 40.0])
    point = (RAS_TO_LPS @ affine @ [*voxel, 1])[:3]
    table = tmp_path / "unsure.csv"
    table.write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm\none,{','.join(map(str, point))},6\n")
    setting = config(data, tmp_path, data=data / "crops", unsure=table)
    assert load_background(setting, "two").excluded == ()
    ((centre, diameter),) = load_background(setting, "one").excluded
    assert diameter == 6
    assert centre == pytest.approx(voxel * np.linalg.norm(affine[:3, :3], axis=0), abs=1)


def test_the_confidence_shift_applies_only_to_validated_and_exported_models(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[UNet] = []

    def judge(model: UNet, *_: object) -> dict[str, float]:
        judged.append(model)
        return {"score": 0.0}

    monkeypatch.setattr("src.train.trainer.validate", judge)
    run = train(config(data, tmp_path, steps=2, confidence_shift=-3.0), CPU)
    image = torch.rand(1, 1, 16, 16, 16)
    expected = run.average.logits(image).detach()
    expected[:, 0] -= 3
    exported = load_model(run.config.checkpoint)
    assert exported.about.training["confidence_shift"] == -3
    for model in (*judged, exported.model):
        assert isinstance(model, UNet)
        torch.testing.assert_close(model.logits(image).detach(), expected, rtol=0, atol=1e-3)
    assert len(judged) == 1


def test_patience_stops_the_run_and_exports_the_best_average(data: Path, tmp_path: Path) -> None:
    chosen = config(data, tmp_path, steps=50, validate_every=1, mine_every=50, patience=2)
    run = Run(chosen, CPU, [])
    for step, score in enumerate([0.1, 0.3, 0.2, 0.3], start=1):
        assert not run.finished
        run.step = step
        run.average.get_parameter("stem.0.weight").data.fill_(step)
        run.record_validation({"score": score})
    assert run.finished
    assert run.kept is not None
    assert (run.kept.step, run.kept.figures) == (2, {"score": 0.3})
    chosen.run.mkdir()
    run.save()
    again = Run(chosen, CPU, [])
    again.resume()
    assert again.finished
    assert again.kept is not None
    assert (again.kept.average["stem.0.weight"] == 2).all()


def test_patience_stops_a_whole_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.4])
    monkeypatch.setattr("src.train.trainer.validate", lambda *_: {"score": next(scores)})
    chosen = config(data, tmp_path, steps=50, validate_every=1, mine_every=50, patience=1)
    assert train(chosen, CPU).step == 2
    about = load_model(chosen.checkpoint).about
    assert (about.training["steps"], about.training["exported_step"], about.results) == (2, 1, {"score": 0.5})


def _one_of_two(chosen: TrainConfig, rank: int, port: int) -> tuple[int, dict[str, Any]]:
    import os  # noqa: PLC0415

    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with workers("cpu") as processes:
        run = train(chosen, processes)
    return run.step, {key: value.numpy() for key, value in weights(run).items()}


def test_two_processes_end_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = get_context("forkserver")
    context.set_forkserver_preload(["src.train.trainer", "torch._dynamo"])
    chosen = config(data, tmp_path, steps=3)
    with ProcessPoolExecutor(2, context) as pool:
        (steps, one), (_, other) = pool.map(_one_of_two, [chosen] * 2, range(2), [port] * 2)
    assert steps == 3
    assert_equal({k: torch.from_numpy(v) for k, v in one.items()}, {k: torch.from_numpy(v) for k, v in other.items()})
    assert load_model(chosen.checkpoint).about.training["processes"] == 2
    assert len(lines(chosen.run / "validation.jsonl")) == 1


def test_several_processes_choose_their_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(BadConfig, match="use auto, cuda or cpu"), workers("cuda:1"):
        pass


def test_the_journal_writes_lines_and_tensorboard(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    journal = Journal(tmp_path, 0)
    journal.record("training", 100, {"heatmap": 0.5, "learning_rate": 0.002}, 12.3)
    journal.record("validation", 100, {"score": 0.25}, 15)
    journal.close()
    assert lines(tmp_path / "training.jsonl") == [{"step": 100, "seconds": 12, "heatmap": 0.5, "learning_rate": 0.002}]
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("validation/score")[0].value == 0.25
    assert set(events.Tags()["scalars"]) == {"training/heatmap", "training/learning_rate", "validation/score"}


def test_without_tensorboard_there_is_one_line_and_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO, "pivot.train"):
        journal = Journal(tmp_path, 0)
        journal.record("validation", 1, {"score": 0.5}, 1)
        journal.close()
    assert [record.message for record in caplog.records if "tensorboard is not installed" in record.message]
    assert lines(tmp_path / "validation.jsonl") == [{"step": 1, "seconds": 1, "score": 0.5}]
    assert not (tmp_path / "tensorboard").exists()


def test_a_second_process_writes_nothing(tmp_path: Path) -> None:
    Journal(tmp_path, 0, writes=False).record("validation", 1, {"score": 0.5}, 1)
    assert not list(tmp_path.iterdir())


def write_config(path: Path, chosen: TrainConfig, **changes: Any) -> Path:  # noqa: ANN401
    values = {**chosen.model_dump(mode="json", exclude_none=True), **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, "learning_rat: unknown key; did you mean learning_rate?"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1 (given: 0)"),
        ({"features": []}, "features"),
        ({"extra_blocks": [0, 9]}, "extra_blocks"),
        ({"extra_blocks": [0, 0, 1, 0, 0]}, "extra_blocks [0, 0, 1, 0, 0] has more levels than features [4, 8, 8, 8]"),
        ({"clip_range": [400, -1000]}, "clip_range [400.0, -1000.0] is empty"),
        ({"diameters": [9, 9]}, "diameters [9.0, 9.0] must be two lengths in mm, the first the smaller one"),
        ({"spread": [0.2, 0, 5]}, "spread [0.2, 0.0, 5.0] must be a share of the diameter and two limits in mm"),
        ({"checkpoint": "model.bin"}, "checkpoint must end in .pth or .safetensors"),
        ({"luna16": None}, "there are no scans to train on"),
        ({"luna16_validation_subset": None}, "there is no validation data"),
        ({"validation_background": "x"}, "lie in the folder `data`"),
        ({"data": "d", "luna16": None, "train_backgrounds": [{"name": "a"}]}, "luna16_validation_subset needs"),
        ({"data": "d", "validation_background": "a", "train_backgrounds": [{"name": "a"}]}, "one of the train_back"),
        ({"luna16": "/nowhere"}, "luna16: there is no folder /nowhere"),
        ({"data": "/nowhere"}, "data: /nowhere must hold lidc_nodule_crops.npz"),
        ({"initial": "/nowhere.pth"}, "cannot read the checkpoint /nowhere.pth"),
        ({"luna16_validation_subset": 3}, "holds no scans of subset 3"),
        ({"run": "/proc/run"}, "/proc/run"),
    ],
)
def test_a_mistake_in_the_configuration_gets_one_clear_message(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    path = write_config(tmp_path / "train.yaml", config(data, tmp_path), **changes)
    assert main(["--config", str(path)]) in {2, 4, 5}
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_the_command_line_trains(data: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "train.yaml", config(data, tmp_path, steps=1, workers=1))
    assert main(["--config", str(path)]) == 0
    assert load_model(tmp_path / "model.pth").about.name == "tiny"


@pytest.mark.parametrize("name", ["train.yaml", "train_luna16.yaml"])
def test_the_shipped_configurations_are_valid(root: Path, name: str) -> None:
    assert load_train_config(root / "configs" / name).steps > 1000


@pytest.mark.parametrize("content", [b"no state", b""])
def test_a_mismatched_state_is_an_error(data: Path, tmp_path: Path, content: bytes) -> None:
    chosen = config(data, tmp_path)
    run = Run(chosen, CPU, ["a"])
    chosen.run.mkdir()
    run.save()
    with pytest.raises(BadConfig, match=r"its scans differ.*remove the file"):
        Run(chosen, CPU, ["b"]).resume()
    with pytest.raises(BadConfig, match="belongs to a run with other features"):
        Run(config(data, tmp_path, features=[4, 8, 8]), CPU, ["a"]).resume()
    run.state_file.write_bytes(content)
    with pytest.raises(BadConfig, match="is damaged"):
        Run(chosen, CPU, ["a"]).resume()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "lidc_nodule_crops.npz").write_bytes(b"no"), "is damaged"),
        (lambda folder: (folder / "lidc_nodule_crops.csv").write_text("crop_id\ncrop0\n"), "lacks 'patient_id'"),
        (lambda folder: (folder / "lidc_nodule_crops.csv").unlink(), "must hold"),
    ],
)
def test_damaged_crops_are_an_error(tmp_path: Path, spoil: Any, message: str) -> None:  # noqa: ANN401
    from src.train.crops import load_crops  # noqa: PLC0415

    write_crops(tmp_path)
    spoil(tmp_path)
    with pytest.raises(BadConfig, match=message):
        load_crops(tmp_path)


# In bfloat16 without AMX, PyTorch 2.15 gives random gradients for a few channels of 2 x 2 x 2 voxels, as in the deepest
# of four levels. Networks of the usual width are not affected.
TWO_LEVELS = (4, 8)


def batch(weight: float = 1.0) -> list[torch.Tensor]:
    """Two patches of noise with a nodule in the middle."""
    heat = torch.zeros(2, 8, 8, 8)
    heat[:, 4, 4, 4] = 1.0
    return [torch.rand(2, 1, 16, 16, 16), heat, heat * 2.0, torch.full_like(heat, weight)]


def test_the_learning_rate_warms_up_stays_and_falls_to_zero(data: Path, tmp_path: Path) -> None:
    run = Run(config(data, tmp_path, steps=1000, warmup=50, decay=0.2, learning_rate=0.01), CPU, [])
    rates = []
    for run.step in (0, 24, 49, 50, 799, 800, 900, 999):
        rates.append(run.learning_rate)
    assert rates == pytest.approx([0.0002, 0.005, 0.01, 0.01, 0.01, 0.01, 0.005, 0.00005])


@pytest.mark.parametrize(("step", "kept"), [(0, 2 / 11), (9, 11 / 20), (5000, 0.9)])
def test_the_weight_average_adapts_quickly_at_first_and_then_as_configured(
    data: Path, tmp_path: Path, step: int, kept: float
) -> None:
    run = Run(config(data, tmp_path, steps=10_000, ema=0.9, learning_rate=0.01, features=TWO_LEVELS), CPU, [])
    run.step = step
    with torch.no_grad():
        for values in run.average.parameters():
            values.add_(0.5)
    before = copy.deepcopy(run.average)
    run.train_step(batch())
    parameters = zip(run.average.parameters(), before.parameters(), run.model.parameters(), strict=True)
    for average, earlier, model in parameters:
        torch.testing.assert_close(average, kept * earlier + (1 - kept) * model)


def test_a_large_gradient_is_clipped_to_a_norm_of_10(data: Path, tmp_path: Path) -> None:
    run = Run(config(data, tmp_path, features=TWO_LEVELS), CPU, [])
    run.train_step(batch(weight=1e6))
    first = run.optimizer.state_dict()["state"].values()
    norm = float(torch.stack([state["exp_avg"].norm() for state in first]).norm())
    assert norm / 0.1 == pytest.approx(10, rel=1e-3)  # after one step Adam holds a tenth of the gradient
