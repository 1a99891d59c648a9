"""The 3D page of a chest: one HTML file that needs no network."""

import html
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from plotly import graph_objects as go

from ..data.arrays import GivenScan, as_array
from ..data.lung_finder import lung_surface
from ..errors import BadOutput, BadScan
from ..files import whole_file
from ..given import is_path, path_of
from ..results.output_formatter import GivenHeatmap, heatmap_of
from ..types import Affine, Scan, Volume
from .report_blocks import RESEARCH_USE
from .scene import Trace, heat_traces, letters, lung_trace, nodule_traces
from .slices import Stage, heatmap_affine, mark, stage
from .source import DetectionSource, FoundNodules, check_pairing, read_detections

__all__ = ["render_3d_volume", "write_3d"]

BACKGROUND = "#12171c"
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
html, body {{ height: 100%; margin: 0; background: {background}; color: #f4f4f4; font: 14px sans-serif; }}
body {{ display: flex; flex-direction: column; }}
h1, p {{ margin: 0; padding: 10px 16px; font-size: 16px; }}
p {{ order: 1; font-size: 13px; }} /* shown last, but there before the chart measures its room */
main {{ flex: 1; position: relative; }}
main > div {{ position: absolute; inset: 0; }}
</style></head>
<body><h1>{title}</h1><p>{note}</p><main>{chart}</main></body></html>
"""


def render_3d_volume(
    scan: GivenScan,
    heatmap: GivenHeatmap,
    detections: DetectionSource,
    output_path: str | Path,
    interactive: bool = True,  # noqa: FBT001, FBT002 - the documented call
) -> None:
    """Write an HTML page, at most 10 MB, with the lungs, the nodules and the heatmap. The view can be turned.

    `scan` and `heatmap` are paths, or (X, Y, Z) arrays in HU and 0..1 from `load_scan` and `predict`. If the page is
    not `interactive`, it is a still view from the front. If the scan shows no lung, only the rest is drawn.

    Raises:
        BadScan: the scan cannot be read, or is an array without an affine.
        BadConfig: the heatmap does not fit the scan.
        BadOutput: the heatmap or the detections are not PIVOT's, or the page cannot be written.
    """
    _check_suffix(output_path)
    write_3d(_as_scan(scan), heatmap, detections, output_path, interactive=interactive)


def write_3d(
    scan: Scan,
    heatmap: GivenHeatmap,
    detections: DetectionSource,
    output_path: str | Path,
    *,
    interactive: bool = True,
) -> None:
    """`render_3d_volume` for a scan in memory.

    Raises:
        BadConfig, BadOutput: as for `render_3d_volume`.
    """
    _check_suffix(output_path)
    found = read_detections(detections)
    check_pairing(found, scan.shape, scan.affine)
    heat = heatmap_of(heatmap)
    on = stage(Volume(scan.array, scan.affine), scan.spacing)
    figure = _figure(_traces(on, heat, heatmap_affine(heat, on, scan.array), found), interactive=interactive)
    title = f"{scan.scan_id}: {found.conclusion}"
    page = PAGE.format(
        title=html.escape(title),
        background=BACKGROUND,
        chart=_chart(figure, interactive=interactive),
        note=RESEARCH_USE,
    )
    with whole_file(output_path) as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")


def _check_suffix(path: str | Path) -> None:
    if path_of(path, "output_path", BadOutput).suffix.lower() not in (".html", ".htm"):
        msg = f"cannot write the 3D page {path}: its name must end in .html"
        raise BadOutput(msg)


def _as_scan(scan: GivenScan) -> Scan:
    if not (is_path(scan) or isinstance(scan, Scan) or getattr(scan, "affine", None) is not None):
        msg = "the size and sides of an array without an affine are unknown: give the scan's path or load_scan's result"
        raise BadScan(msg)
    array, _ = as_array(scan)
    affine: Affine = array.affine  # type: ignore[attr-defined]
    return getattr(array, "source", None) or Scan(np.asarray(array), affine)


def _traces(on: Stage, heatmap: npt.NDArray[Any], affine: Affine, found: FoundNodules) -> list[Trace]:
    lungs, placed = lung_surface(on.array, on.affine)
    solid = [lung_trace(lungs, placed)] if lungs.any() else []
    everything = [*found.detections, *found.masses]
    solid += [*nodule_traces(on, mark(on, everything), everything), *heat_traces(heatmap, affine)]
    return [*solid, letters(solid)] if solid else []


def _figure(traces: list[Trace], *, interactive: bool) -> go.Figure:
    hidden = {"visible": False}
    camera = {"eye": {"x": 0.2, "y": -1.6, "z": 0.25}, "up": {"x": 0, "y": 0, "z": 1}}  # from the front
    scene = {"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data", "camera": camera}
    return go.Figure(
        traces,
        layout={
            "scene": {**scene, "dragmode": "turntable" if interactive else False},
            "paper_bgcolor": BACKGROUND,
            "font": {"color": "#f4f4f4"},
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "legend": {"x": 0.01, "y": 0.99, "bgcolor": "rgba(0,0,0,0)", "itemsizing": "constant"},
            "autosize": True,
        },
    )


def _chart(figure: go.Figure, *, interactive: bool) -> str:
    chart: str = figure.to_html(
        config={"displaylogo": False, "responsive": True, "staticPlot": not interactive},
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        default_height="100%",
        div_id="chest",
    )
    return chart
