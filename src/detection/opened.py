"""Opens the detector of a loaded model."""

import torch

from ..config import Config
from ..detectors.recipe import BoxOutput, Foreign, Together
from ..model.checkpoint import Checkpoint
from .detector import Detector
from .network import Network

__all__ = ["open_detector"]


def open_detector(checkpoint: Checkpoint, config: Config, device: torch.device) -> Detector:
    """The detector for this model under this configuration.

    Raises:
        BadConfig: the configuration has an option that this kind of model does not support.
    """
    if isinstance(checkpoint, Together):
        from .ensemble import Ensemble  # noqa: PLC0415 - only if needed

        names = _told_apart([one.about.name for one in checkpoint.members])
        members = [open_detector(one, config, device) for one in checkpoint.members]
        return Ensemble(list(zip(names, members, strict=True)))
    if not isinstance(checkpoint, Foreign):
        return Network(checkpoint, config, device)
    if isinstance(checkpoint.output, BoxOutput):
        from .boxes import BoxDetector  # noqa: PLC0415 - only if needed

        return BoxDetector(checkpoint, config, device)
    from .segmenter import Segmenter  # noqa: PLC0415 - only if needed

    return Segmenter(checkpoint, config, device)


def _told_apart(names: list[str]) -> list[str]:
    """The names, with numbers appended to repeated ones."""
    return [f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]
