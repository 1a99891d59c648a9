"""Nodules as labels on the scan's grid: NIfTI, with tables of names and colours for ITK-SNAP and 3D Slicer."""

from pathlib import Path

import numpy as np

from ..files import whole_file
from ..types import Results, Scan
from .found import findings_of

__all__ = ["export"]

CLEAR = '0 0 0 0 0 0 0 "Clear Label"'  # ITK-SNAP's: number, colour, opacity, whether it is shown, and in 3D, name


def export(scan: Scan, results: Results, image_path: Path, itksnap_path: Path, slicer_path: Path) -> None:
    """Write the labels: 0 for background, else the nodule's number. Where two overlap, the stronger one's."""
    import nibabel  # noqa: PLC0415 - slow

    findings = list(findings_of(results))
    labels = np.zeros(scan.shape, np.uint16)
    for one in reversed(findings):
        if one.mask is not None:
            box = tuple(slice(a, a + n) for a, n in zip(one.mask.origin, one.mask.voxels.shape, strict=True))
            labels[box][one.mask.voxels] = one.number
    image = nibabel.Nifti1Image(labels, scan.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent("label")
    with whole_file(image_path) as partial:
        nibabel.save(image, partial)
    colours = [(one.number, one.name, *one.colour) for one in findings]
    itksnap = [CLEAR, *(f'{number} {r} {g} {b} 1 1 1 "{name}"' for number, name, r, g, b in colours)]
    slicer = [f"{number} {name.replace(' ', '_')} {r} {g} {b} 255" for number, name, r, g, b in colours]
    for path, lines in ((itksnap_path, itksnap), (slicer_path, ["0 Background 0 0 0 0", *slicer])):
        with whole_file(path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
