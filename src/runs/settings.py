"""The configuration with the options of a command line or a call."""

from collections.abc import Sequence

from ..config import Config, load_config

__all__ = ["with_options"]


def with_options(
    config: Config,
    batch_size: int | None = None,
    num_workers: int | None = None,
    detections: str | None = None,
    *,
    save_dicom: bool | None = None,
    threshold: float | None = None,
    exports: Sequence[str] | None = None,
) -> Config:
    """The configuration with the given values. The exports are added to its own.

    Raises:
        BadConfig: a value is out of range.
    """
    data = config.model_dump()
    data["inference"] |= _given(batch_size=batch_size, num_workers=num_workers)
    data["output"]["formats"] |= _given(detections=detections)
    data["output"] |= _given(save_dicom=save_dicom)
    if exports:
        data["output"]["formats"]["exports"] = list(dict.fromkeys([*config.output.formats.exports, *exports]))
    if threshold is not None:
        rules = data["post_processing"]
        rules["peak_detection"]["threshold"] = threshold
        rules["confidence_filter"]["min_confidence"] = min(
            threshold, config.post_processing.confidence_filter.min_confidence
        )
    return load_config(data)


def _given(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}
