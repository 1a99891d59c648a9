"""The training losses."""

from torch import Tensor
from torch.nn import functional

__all__ = ["detection_loss", "quality_focal_loss"]


def quality_focal_loss(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The focal loss for soft targets, per unit of target (Li et al. 2020, Generalized Focal Loss, equation 5).

    Every voxel of a Gaussian is a positive of its own degree. A certain nodule may then score near 1, although its
    centre is known to one or two millimetres only.

    Args:
        logit: (N, X, Y, Z).
        target: the same shape, Gaussians in 0..1.
        weight: the same shape; 0 for unknown voxels.
    """
    distance = (target - logit.sigmoid()).abs()
    entropy = functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
    return (distance**2 * entropy * weight).sum() / target.sum().clamp(min=1)


def detection_loss(logits: Tensor, heat: Tensor, log_diameter: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """The heatmap's focal loss, and the L1 error of the log diameter near nodule centres (target > 0.5)."""
    near = heat > 0.5  # noqa: PLR2004 - the inner part of the Gaussian
    error = (logits[:, 1] - log_diameter).abs()[near]
    return {
        "heatmap": quality_focal_loss(logits[:, 0], heat, weight),
        "diameter": error.sum() / near.sum().clamp(min=1),
    }
