"""Half precision is used for a detector of another project only if its probabilities hardly change."""

import pytest
import torch
from torch import Tensor

from src.detection.half import Precision


@pytest.mark.parametrize(
    ("change", "kept"),
    [(0.0, True), (0.049, True), (-0.049, True), (0.051, False), (-0.051, False), (float("nan"), False)],
)
def test_half_precision_is_used_if_no_probability_changes_by_more_than_0_05(change: float, *, kept: bool) -> None:
    chosen = Precision(torch.device("cpu"), mixed=False)
    chosen.dtype, chosen.tested = torch.bfloat16, False

    def probability(dtype: torch.dtype) -> Tensor:
        values = torch.full((1000,), 0.5)
        values[7] += change if dtype == torch.bfloat16 else 0
        return values

    chosen.test(probability)
    assert chosen.dtype == (torch.bfloat16 if kept else torch.float32)
    chosen.test(lambda _: torch.full((1,), float("nan")))  # only the first scan is tested
    assert chosen.dtype == (torch.bfloat16 if kept else torch.float32)
