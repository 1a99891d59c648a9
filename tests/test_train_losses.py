"""Training losses: values worked out by hand."""

import math

import pytest
import torch

from src.train.losses import detection_loss, quality_focal_loss


def _voxels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, len(values), 1, 1)


@pytest.mark.parametrize(
    ("confidence", "target", "loss"),
    [
        (0.5, 1.0, 0.5**2 * math.log(2)),
        (0.9, 1.0, 0.1**2 * -math.log(0.9)),
        (0.1, 1.0, 0.9**2 * -math.log(0.1)),
        (0.2, 0.0, 0.2**2 * -math.log(0.8)),
        (0.3, 0.5, 0.2**2 * -(math.log(0.3) + math.log(0.7)) / 2),
        (0.5, 0.5, 0.0),
    ],
)
def test_the_focal_loss_is_the_cross_entropy_times_the_squared_distance(
    confidence: float, target: float, loss: float
) -> None:
    logit = _voxels(math.log(confidence / (1 - confidence)))
    found = quality_focal_loss(logit, _voxels(target), _voxels(1.0))
    assert float(found) == pytest.approx(loss, abs=1e-6)


def test_the_focal_loss_is_per_unit_of_target_and_ignores_unknown_voxels() -> None:
    logits, target = _voxels(0.0, 0.0, 0.0, 0.0), _voxels(1.0, 1.0, 0.0, 0.0)
    one = 0.25 * math.log(2)
    assert float(quality_focal_loss(logits, target, torch.ones_like(target))) == pytest.approx(4 * one / 2)
    assert float(quality_focal_loss(logits, target, _voxels(1.0, 1.0, 1.0, 0.0))) == pytest.approx(3 * one / 2)
    assert float(quality_focal_loss(logits, _voxels(0, 0, 0, 0), _voxels(0, 0, 1.0, 1.0))) == pytest.approx(2 * one)


def test_the_diameter_loss_covers_only_the_inner_half_of_a_bump() -> None:
    heat = _voxels(0.2, 0.5, 0.51, 0.9)
    answer = torch.stack([torch.zeros(1, 4, 1, 1), _voxels(9.0, 9.0, 2.0, 3.0)], dim=1)
    losses = detection_loss(answer, heat, _voxels(0.0, 0.0, 1.0, 5.0), torch.ones_like(heat))
    assert float(losses["diameter"]) == pytest.approx((1 + 2) / 2)
    assert float(losses["heatmap"]) == pytest.approx(float(quality_focal_loss(_voxels(0, 0, 0, 0), heat, heat * 0 + 1)))


def test_the_diameter_loss_is_zero_without_a_nodule() -> None:
    zeros = torch.zeros(2, 3, 3, 3)
    assert float(detection_loss(torch.ones(2, 2, 3, 3, 3), zeros, zeros, zeros + 1)["diameter"]) == 0


def test_the_error_of_a_single_voxel_is_not_averaged_away() -> None:
    one = _voxels(0.9)
    answer = torch.stack([_voxels(0.0), _voxels(4.0)], dim=1)
    assert float(detection_loss(answer, one, _voxels(1.0), one)["diameter"]) == 3
