"""The long and the short axis of an outline."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.measurement.axes import axes_of

CRESCENT = np.concatenate(
    [[(r * np.sin(t), r * np.cos(t)) for t in np.linspace(-a, a, 200)] for r, a in ((17.0, 0.9), (11.0, -0.9))]
)


@given(turn=st.floats(0, 2 * np.pi), long=st.floats(1, 40), share=st.floats(0.2, 0.95))
def test_the_axes_of_an_ellipse_are_the_same_at_any_rotation(turn: float, long: float, share: float) -> None:
    at = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    axes = axes_of(np.stack([long / 2 * np.cos(at), share * long / 2 * np.sin(at)], axis=1) @ turned)
    assert axes.long == pytest.approx(long, rel=1e-3)
    assert axes.short == pytest.approx(share * long, rel=0.01)
    assert np.linalg.norm(np.subtract(*axes.ends)) == pytest.approx(axes.long)


def test_the_short_axis_of_a_bent_section_is_a_diameter_not_the_extent() -> None:
    axes = axes_of(CRESCENT)
    assert axes.long == pytest.approx(2 * 17 * np.sin(0.9), rel=1e-3)
    assert np.ptp(CRESCENT[:, 1]) > 9.9
    # It is 6 mm wide across the middle, and widest where the inner border ends.
    edge = 11 * np.sin(0.9)
    assert axes.short == pytest.approx(np.sqrt(17**2 - edge**2) - 11 * np.cos(0.9), rel=0.01)


@pytest.mark.parametrize("line", [[(2, 3)], [(2, 3), (2, 3)], [(0, 0), (3, 4)], [(0, 0), (3, 4), (6, 8)]])
def test_points_in_a_row_have_no_width(line: list[tuple[float, float]]) -> None:
    axes = axes_of(np.array(line, dtype=np.float64))
    assert axes.long == pytest.approx(np.linalg.norm(np.subtract(line[-1], line[0])))
    assert axes.short == pytest.approx(0, abs=1e-9)
