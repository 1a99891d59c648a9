"""The exports: formats of other programs, each with the module that writes it."""

from typing import NamedTuple

__all__ = ["EXPORTS", "Export"]


class Export(NamedTuple):
    """A format. Its `module` in the package has a function `export(scan, results, *paths)`.

    The paths are the scan's name with each of the `suffixes`. For a `dicom` object the function is `export(context)`,
    and its only suffix is the file's name in the scan's DICOM folder.
    """

    module: str
    suffixes: tuple[str, ...]
    dicom: bool = False


EXPORTS = {
    "masks": Export("results.masks", ("_masks.nii.gz", "_masks.itksnap.txt", "_masks.ctbl")),
    "slicer": Export("viz.slicer", ("_nodules.mrk.json",)),
    "findings": Export("results.findings_table", ("_findings.csv",)),
    "luna16": Export("results.luna16", ("_luna16.csv",)),
    "grand_challenge": Export("results.grand_challenge", ("_points.json",)),
    "coco": Export("results.coco", ("_coco.json",)),
    "nndetection": Export("results.nndetection", ("_boxes.json",)),
    "fhir": Export("results.fhir", ("_fhir.json",)),
    "heatmap_dicom": Export("dicom_io.parametric_map", ("heatmap.dcm",), dicom=True),
    "rtstruct": Export("dicom_io.rtstruct", ("rtstruct.dcm",), dicom=True),
    "key_objects": Export("dicom_io.key_objects", ("key_objects.dcm",), dicom=True),
}
