"""What training minimises."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["detection_loss", "focal_loss"]


def focal_loss(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The penalty-reduced focal loss on a heatmap, per nodule (CornerNet, Law and Deng 2018, equation 1).

    Args:
        logit: (N, X, Y, Z).
        target: the same shape, Gaussian bumps in 0..1 that reach exactly 1 at a nodule's voxel.
        weight: the same shape; 0 where nothing is known.
    """
    p = logit.sigmoid()
    positive = target == 1
    hit = -((1 - p) ** 2) * functional.logsigmoid(logit)
    miss = -((1 - target) ** 4) * p**2 * functional.logsigmoid(-logit)
    return (torch.where(positive, hit, miss) * weight).sum() / positive.sum().clamp(min=1)


def detection_loss(logits: Tensor, heat: Tensor, log_diameter: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """The heatmap's focal loss, and the L1 error of the log diameter near nodule centres (target > 0.5)."""
    near = heat > 0.5  # noqa: PLR2004 - the inner part of the bump
    error = (logits[:, 1] - log_diameter).abs()[near]
    return {"heatmap": focal_loss(logits[:, 0], heat, weight), "diameter": error.sum() / near.sum().clamp(min=1)}
