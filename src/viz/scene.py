"""The parts of the 3D page as plotly traces. All positions are world millimetres in LPS."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from plotly import graph_objects as go
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import block_reduce, marching_cubes

from ..data.geometry import spacing_of, to_lps
from ..data.lungs import Mask
from ..types import Affine, Detection
from .shares import risk_of, share
from .slices import Stage, StageMark

__all__ = ["Trace", "heat_traces", "letters", "lung_trace", "nodule_traces"]

Trace: TypeAlias = go.Mesh3d | go.Scatter3d
Points: TypeAlias = npt.NDArray[np.float64]
LUNG, HEAT, INK = "#9fc6dd", "#ff8c1a", "#f4f4f4"
HEAT_STEP = 3.0  # mm
HEAT_LEVELS = ((0.3, 0.12), (0.6, 0.3))  # (heatmap value, opacity)
MARGIN = 18.0  # mm from the lungs to the letters around them
LETTERS = ("R", "L", "A", "P", "F", "H")  # at the low and high end of each axis of LPS
BALL_POINTS = 180


def lung_trace(lungs: Mask, affine: Affine) -> Trace:
    """The transparent surface of both lungs. `affine` is that of the mask (RAS+)."""
    smooth = ndimage.gaussian_filter(np.pad(lungs.astype(np.float32), 3), 0.8)
    return _surface(smooth, 0.5, affine, 3, color=LUNG, opacity=0.16, name="lungs", hoverinfo="skip")


def heat_traces(heatmap: npt.NDArray[Any], affine: Affine) -> Iterator[Trace]:
    """Surfaces of the heatmap at each level that it reaches. `affine` is the heatmap's (RAS+)."""
    blocks = tuple(max(1, round(HEAT_STEP / size)) for size in spacing_of(affine))
    to_index = np.diag([*blocks, 1.0])
    to_index[:3, 3] = np.subtract(blocks, 1) / 2
    coarse = np.pad(block_reduce(np.asarray(heatmap), blocks, np.max), 1)
    for level, opacity in HEAT_LEVELS:
        if coarse.max() > level:
            look = {"color": HEAT, "opacity": opacity, "name": f"heatmap above {level:g}", "hoverinfo": "skip"}
            yield _surface(coarse, level, affine @ to_index, 1, **look)


def nodule_traces(on: Stage, marks: Iterable[StageMark], detections: Iterable[Detection]) -> Iterator[Trace]:
    """A ball for each nodule, with its number and size beside it."""
    ball, faces = _ball()
    for nodule, found in zip(marks, detections, strict=True):
        centre = np.array(on.lps(nodule.centre))
        name = f"{nodule.number}: {2 * nodule.radius:.1f} mm"
        group: dict[str, Any] = {"legendgroup": str(nodule.number), "name": f"{name}, {_risk(found)}"}
        words = f"nodule {name}<br>confidence {share(nodule.confidence)}<br>{_risk(found)}<extra></extra>"
        look = {"color": nodule.color, "opacity": 1.0, "hovertemplate": words, **group}
        yield _mesh(centre + nodule.radius * ball, faces, **look)
        above = centre + np.array([0, 0, nodule.radius + 4])
        yield _words([above], [name], nodule.color, showlegend=False, **group)


def letters(traces: Iterable[Trace]) -> Trace:
    """R, L, A, P, F and H around the given traces, on the patient's sides."""
    corners = np.array([[(np.min(axis), np.max(axis)) for axis in (one.x, one.y, one.z)] for one in traces])
    low, high = corners[..., 0].min(axis=0) - MARGIN, corners[..., 1].max(axis=0) + MARGIN
    middle = (low + high) / 2
    places = [np.where(np.arange(3) == axis, end, middle) for axis in range(3) for end in (low, high)]
    return _words(places, LETTERS, INK, size=20, showlegend=False, name="orientation")


def _risk(found: Detection) -> str:
    risk = risk_of(found)
    return f"{risk} risk" if risk else "no risk score"


def _ball() -> tuple[Points, npt.NDArray[np.intp]]:
    """Points (N, 3), evenly spread over the unit sphere along a spiral, and their triangles."""
    turn = np.arange(BALL_POINTS) * np.pi * (3 - 5**0.5)
    z = np.linspace(1, -1, BALL_POINTS)
    points = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    faces = ConvexHull(points).simplices
    inwards = np.linalg.det(points[faces]) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return points, faces


def _surface(volume: npt.NDArray[Any], level: float, affine: Affine, pad: int, **look: Any) -> Trace:  # noqa: ANN401
    """The surface at a level of a volume that is padded with `pad` voxels."""
    points, faces, *_ = marching_cubes(volume, level)
    return _mesh(to_lps(affine, points - pad), faces, showlegend=True, **look)


def _mesh(points: Points, faces: npt.NDArray[Any], **look: Any) -> Trace:  # noqa: ANN401 - what plotly takes
    x, y, z = np.round(points, 1).astype(np.float32).T
    i, j, k = faces.astype(np.min_scalar_type(len(points))).T  # a smaller type makes a smaller page
    light = {"ambient": 0.5, "diffuse": 0.7, "specular": 0.15}
    return go.Mesh3d(x=x, y=y, z=z, i=i, j=j, k=k, lighting=light, showlegend=look.pop("showlegend", True), **look)


def _words(
    places: Iterable[npt.ArrayLike],
    words: Iterable[str],
    color: str,
    size: int = 13,
    **look: Any,  # noqa: ANN401 - what plotly takes
) -> Trace:
    x, y, z = np.array([*places], np.float32).T
    font = {"size": size, "color": color}
    return go.Scatter3d(x=x, y=y, z=z, mode="text", text=[*words], textfont=font, hoverinfo="skip", **look)
