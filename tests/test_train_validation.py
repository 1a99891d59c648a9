"""Hits and false marks in validation and in hard-negative mining."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from src.errors import BadScan
from src.train.parallel import Workers
from src.train.run import Run
from src.train.scans import LungScan
from src.train.targets import Truth
from src.train.trainer import _false_marks
from src.train.validation import ValidationSet, best_hits, find_marks, plant, validate
from tests.test_train_samples import crops
from tests.training_data import tiny_config

CPU = Workers(torch.device("cpu"))
CLIP = (-1000.0, 400.0)
NODULE = Truth(np.array([24.0, 24, 24]), 12.0)
EXCLUDED = Truth(np.array([24.0, 60, 24]), 12.0)
STRAY = Truth(np.array([60.0, 24, 60]), 12.0)


class Bright(nn.Module):
    """Marks bright voxels as nodules."""

    output_stride, multiple = 2, 2

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        heat = functional.avg_pool3d((image - 0.3).clamp(min=0) * self.gain, 5, stride=2, padding=2)
        return torch.cat([heat, heat, heat], dim=1)


def scan(
    *balls: tuple[Truth, int], truths: tuple[Truth, ...] = (), excluded: tuple[Truth, ...] = (), size: int = 84
) -> LungScan:
    """A lung with balls of given HU."""
    hu = np.full((size, size, size), -850, np.int16)
    grid = np.indices(hu.shape).transpose(1, 2, 3, 0)
    for (centre, diameter), value in balls:
        hu[np.linalg.norm(grid - centre, axis=-1) < diameter / 2] = value
    places = np.argwhere(hu[::3, ::3, ::3] < 0) * 3
    return LungScan("scan", hu, np.eye(4), places, places, None, truths, excluded)


BALLS = ((NODULE, 100), (EXCLUDED, 300), (STRAY, 200))


def test_marks_lie_on_the_balls_strongest_first() -> None:
    points, confidence = find_marks(Bright(), scan(*BALLS).hu, CLIP)
    for mark, ball in zip(points, (EXCLUDED, STRAY, NODULE), strict=True):
        assert np.linalg.norm(mark - ball.centre) < 2
    assert (np.diff(confidence) < 0).all()
    assert best_hits((points, confidence), [STRAY, NODULE]).tolist() == [confidence[1], confidence[2]]
    assert best_hits((points, confidence), [Truth(NODULE.centre + np.array([0, 0, 4.0]), 7.0)]).tolist() == [0]


@pytest.mark.parametrize(
    ("truths", "excluded", "at_1", "at_4"),
    [
        ((NODULE,), (EXCLUDED,), 1, 1),  # one stronger false mark
        ((NODULE,), (), 0, 1),  # two false marks
        ((STRAY,), (EXCLUDED,), 1, 1),
        ((NODULE, Truth(np.array([60.0, 60, 60]), 6.0)), (EXCLUDED,), 0.5, 0.5),  # a nodule without a mark
    ],
)
def test_annotated_scans_are_evaluated_by_the_rules_of_luna16(
    truths: tuple[Truth, ...], excluded: tuple[Truth, ...], at_1: float, at_4: float
) -> None:
    held_out = scan(*BALLS, truths=truths, excluded=excluded)
    figures = validate(Bright(), ValidationSet(None, [], [], [held_out]), CLIP, CPU)
    assert figures["luna16_at_1"] == pytest.approx(at_1)
    assert figures["luna16_at_4"] == pytest.approx(at_4)
    assert figures["score"] == pytest.approx((at_1 + at_4) / 2)


def test_planted_nodules_and_crops_are_evaluated_against_the_marks_of_the_plain_scan() -> None:
    background = scan((NODULE, 30), size=130)
    held_out = crops("abc")
    planted = plant(held_out, background, copies=2)
    assert len(planted) == 2
    for hu, truths in planted:
        assert [truth.diameter for truth in truths] == [crop.diameter for crop in held_out]
        for centre, _ in truths:
            assert hu[tuple(centre.astype(int))] > background.hu[tuple(centre.astype(int))] + 50
    figures = validate(Bright(), ValidationSet(background, planted, held_out, []), CLIP, CPU)
    assert figures["threshold_at_1"] == 0  # the scan has a single false mark
    assert figures["planted_at_1"] == pytest.approx(1, abs=0.4)
    assert figures["crops_at_1"] == 1
    assert figures["score"] == pytest.approx(
        np.mean([figures[key] for key in ("planted_at_1", "planted_at_4", "crops_at_1", "crops_at_4")])
    )


def test_a_mark_on_a_possible_nodule_of_the_plain_scan_is_not_false() -> None:
    held_out = crops("abc")
    for excluded, marks in (((), 2), ((EXCLUDED,), 1)):
        background = scan(*BALLS[:2], excluded=excluded, size=130)
        data = ValidationSet(background, plant(held_out, background, copies=1), held_out, [])
        figures = validate(Bright(), data, CLIP, CPU)
        assert (figures["threshold_at_1"] > 0) == (marks > 1)


def test_lungs_without_room_for_the_nodules_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.train.validation.TRIES", 100)
    with pytest.raises(BadScan, match="no room for"):
        plant(crops("abcde"), scan(size=20), copies=1)


def test_mining_returns_neither_nodules_nor_excluded_findings(tmp_path: Path) -> None:
    run = Run(tiny_config(tmp_path), CPU, ["scan"])
    run.average = Bright()  # type: ignore[assignment]
    bare = _false_marks(run, scan(*BALLS))
    assert len(bare) == 3
    found = _false_marks(run, scan(*BALLS, truths=(NODULE,), excluded=(EXCLUDED,)))
    assert found.dtype == np.intp
    assert np.linalg.norm(found - STRAY.centre, axis=1) == pytest.approx([0], abs=2)
