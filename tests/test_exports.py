"""Exports for other programs, each read with an independent reader."""

import copy
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from fhir.resources.R4B.bundle import Bundle

from src.config import load_config
from src.data.geometry import to_lps
from src.errors import BadConfig
from src.exports import EXPORTS
from src.results import fhir
from src.results.findings_table import FINDINGS_COLUMNS
from src.runs.outputs import output_names, write_outputs
from src.types import Results, Scan
from tests.dicom_files import write_series
from tests.test_dicom_objects import PLACES, affine_of, header, scan_with

Made = tuple[Scan, Results, dict[str, Path]]


def _made(folder: Path, case: str, kind: str = "axial") -> Made:
    """A scan with balls, its results with every export, and the files by what follows the scan's name."""
    scan, results = scan_with(PLACES[case], affine_of(kind))
    series = write_series(folder / "series", scan.array, scan.affine, edit=header)
    results["metadata"]["timings_seconds"] = {}
    for found in results["detections"]:
        found["location"] = {"side": "left", "third": "upper"}
    config = load_config(
        {
            "output": {
                "formats": {"exports": list(EXPORTS), "detections": "csv"},
                "save_heatmap": False,
                "save_visualization": False,
            }
        }
    )
    series_scan = Scan(scan.array, scan.affine, "scan", "1.2.3.1")
    files = write_outputs(series_scan, results, config, folder / "out", source=series)
    inside = [file for path in files for file in (path.iterdir() if path.is_dir() else [path])]
    return series_scan, results, {file.name.removeprefix("scan_"): file for file in inside}


def _places(results: Results) -> Any:  # noqa: ANN401 - all are known
    return [found["coordinates_lps"] for found in results["detections"]]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made(tmp_path_factory.mktemp("three"), "3 nodules", "oblique")


@pytest.fixture(scope="module")
def none(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made(tmp_path_factory.mktemp("none"), "0 nodules")


def test_every_export_is_written_and_named(three: Made) -> None:
    wanted = {suffix.removeprefix("_") for export in EXPORTS.values() for suffix in export.suffixes}
    assert wanted <= three[2].keys()
    for export in EXPORTS.values():
        assert callable(import_module(f"src.{export.module}").export)


def test_an_unknown_export_is_refused_before_inference() -> None:
    with pytest.raises(BadConfig, match="obj is no format: use masks, slicer"):
        load_config({"output": {"formats": {"exports": ["obj"]}}})
    with pytest.raises(BadConfig, match="has a repeated value"):
        load_config({"output": {"formats": {"exports": ["coco", "coco"]}}})


def test_a_run_without_exports_writes_no_export() -> None:
    names = output_names("a", load_config(None))
    assert names == ["a_heatmap.nii.gz", "a_visualization.png", "a_detections.json"]


def test_labels_are_the_masks_on_the_scans_grid(three: Made) -> None:
    scan, results, files = three
    image: Any = nibabel.load(files["masks.nii.gz"])
    labels = np.asarray(image.dataobj)
    np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
    assert labels.shape == scan.shape
    for number, (found, mask) in enumerate(zip(results["detections"], results["masks"], strict=True), start=1):
        assert mask
        where = np.argwhere(labels == number)
        assert len(where) == mask.voxels.sum()
        centre = nibabel.affines.apply_affine(image.affine, where.mean(axis=0)) * (-1, -1, 1)
        assert np.linalg.norm(centre - np.array(found["coordinates_lps"])) < 0.4
    names = [line.split('"')[1] for line in files["masks.itksnap.txt"].read_text().splitlines()]
    assert names == ["Clear Label", "Nodule 1", "Nodule 2", "Nodule 3"]
    table = pd.read_csv(files["masks.ctbl"], sep=" ", header=None)
    assert table[1].tolist() == ["Background", "Nodule_1", "Nodule_2", "Nodule_3"]
    assert table[[2, 3, 4]].drop_duplicates().shape == (4, 3)


def test_the_stronger_of_two_overlapping_nodules_keeps_the_common_voxels(tmp_path: Path) -> None:
    _, results, files = _made(tmp_path, "2 overlapping")
    image: Any = nibabel.load(files["masks.nii.gz"])
    counts = np.bincount(np.asarray(image.dataobj).ravel())
    assert results["masks"][0]
    assert counts[1] == results["masks"][0].voxels.sum()
    assert counts[2] > 0


def test_markups_are_points_and_rulers_in_lps(three: Made) -> None:
    _, results, files = three
    points, *rulers = json.loads(files["nodules.mrk.json"].read_text())["markups"]
    assert (points["type"], points["coordinateSystem"], points["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    places = [point["position"] for point in points["controlPoints"]]
    np.testing.assert_allclose(places, _places(results), atol=0.002)
    assert [point["label"] for point in points["controlPoints"]] == ["Nodule 1", "Nodule 2", "Nodule 3"]
    assert [ruler["name"] for ruler in rulers[:2]] == ["Nodule 1, long axis", "Nodule 1, short axis"]
    assert len(rulers) == 6
    for number, found in enumerate(results["detections"]):
        long, short = (np.array([p["position"] for p in one["controlPoints"]]) for one in rulers[2 * number :][:2])
        for ends in (long, short):
            assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(found["diameter_mm"], abs=1.5)  # a ball
            assert np.linalg.norm(ends.mean(axis=0) - np.array(found["coordinates_lps"])) < 2.5
        assert abs((long[1] - long[0]) @ (short[1] - short[0])) < 1e-2 * found["diameter_mm"] ** 2


def test_tables_hold_every_finding(three: Made) -> None:
    _, results, files = three
    luna = pd.read_csv(files["luna16.csv"])
    assert list(luna.columns) == ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    assert set(luna["seriesuid"]) == {"1.2.3.1"}
    np.testing.assert_allclose(luna[["coordX", "coordY", "coordZ"]], _places(results))
    np.testing.assert_allclose(luna["probability"], [found["confidence"] for found in results["detections"]])
    findings = pd.read_csv(files["findings.csv"])
    assert tuple(findings.columns) == FINDINGS_COLUMNS
    assert findings["side"].tolist() == ["left"] * 3
    assert findings["lung_rads"].notna().all()


def test_coco_annotations_are_the_masks_slice_by_slice(three: Made) -> None:
    scan, results, files = three
    content = json.loads(files["coco.json"].read_text())
    images = {image["id"]: image for image in content["images"]}
    volumes = dict.fromkeys(range(1, 4), 0)
    for one in content["annotations"]:
        runs = one["segmentation"]["counts"]
        values = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
        picture = values.reshape(one["segmentation"]["size"], order="F")  # (rows, columns), columns first
        rows, columns = np.nonzero(picture)
        x, y, width, height = one["bbox"]
        assert (columns.min(), rows.min()) == (x, y)
        assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (width, height)
        assert picture.sum() == one["area"]
        assert picture.shape == (images[one["image_id"]]["height"], images[one["image_id"]]["width"])
        mask = results["masks"][one["nodule"] - 1]
        assert mask
        whole = np.zeros(scan.shape, dtype=bool)
        whole[tuple(slice(a, a + n) for a, n in zip(mask.origin, mask.voxels.shape, strict=True))] = mask.voxels
        np.testing.assert_array_equal(picture, whole[..., one["image_id"]].T)
        volumes[one["nodule"]] += one["area"]
    assert list(volumes.values()) == [mask.voxels.sum() for mask in results["masks"] if mask]
    assert content["categories"][0] == {"id": 1, "name": "nodule"}


def test_nndetection_boxes_enclose_the_masks_in_nndetections_axis_order(three: Made) -> None:
    scan, results, files = three
    content = json.loads(files["boxes.json"].read_text())
    assert content["pred_scores"] == [found["confidence"] for found in results["detections"]]
    assert content["original_size_of_raw_data"] == list(scan.shape[::-1])
    direction = np.reshape(content["itk_direction"], (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-6)
    for (z1, y1, z2, y2, x1, x2), mask in zip(content["pred_boxes"], results["masks"], strict=True):
        assert mask
        assert (x1, y1, z1) == mask.origin
        assert (x2 - x1, y2 - y1, z2 - z1) == mask.voxels.shape
        corner = direction @ (np.array([x1, y1, z1]) * content["itk_spacing"]) + content["itk_origin"]
        np.testing.assert_allclose(corner, to_lps(scan.affine, mask.origin), atol=1e-6)


def test_fhir_resources_are_valid_and_hold_the_measurements(three: Made) -> None:
    _, results, files = three
    bundle: Any = Bundle.model_validate_json(files["fhir.json"].read_text())
    report, study, *observations = (entry.resource for entry in bundle.entry)
    assert (report.status, report.code.coding[0].code) == ("preliminary", "24627-2")
    assert study.series[0].uid == "1.2.3.1"
    assert report.imagingStudy[0].reference == f"urn:uuid:{study.id}"
    assert [one.reference for one in report.result] == [f"urn:uuid:{one.id}" for one in observations]
    assert [float(one.valueQuantity.value) for one in observations] == [f["diameter_mm"] for f in results["detections"]]
    assert {one.bodySite.coding[0].code for one in observations} == {"44029006"}  # the left lung
    words = {part.code.text: part.valueString for part in observations[0].component if part.code.text}
    assert words["Lung-RADS v2022 category"] == results["detections"][0]["guidelines"]["lung_rads"]["category"]


def test_fhir_values_and_guidelines_match_the_report(three: Made, tmp_path: Path) -> None:
    scan, results, _ = three
    found = copy.deepcopy(results["detections"][0])
    found["properties"]["long_axis_mm"] = 12.3456
    found["guidelines"]["fleischner"] |= {"low_risk": "none", "high_risk": "optional CT at 12 months"}
    found["guidelines"]["brock"]["2a"] = {"upper_lobe": 0.0650, "other_lobe": 0.0379}
    fhir.export(scan, {**results, "detections": [found], "masks": [None]}, tmp_path / "fhir.json")
    bundle: Any = Bundle.model_validate_json((tmp_path / "fhir.json").read_text())
    parts = bundle.entry[2].resource.component
    values = {part.code.text or part.code.coding[0].display: part for part in parts}
    assert float(values["Long axis"].valueQuantity.value) == 12.35
    assert values["Fleischner 2017, high risk"].valueString == "optional CT at 12 months"
    assert values["Fleischner 2017, low risk"].valueString == "none"
    assert float(values["Brock 2a probability of cancer, other lobe"].valueQuantity.value) == 0.0379


def test_outlines_of_the_structure_set_enclose_the_masks(three: Made) -> None:
    scan, results, files = three
    structures = pydicom.dcmread(files["rtstruct.dcm"])
    assert structures.Modality == "RTSTRUCT"
    assert [one.ROIName for one in structures.StructureSetROISequence] == ["Nodule 1", "Nodule 2", "Nodule 3"]
    inverse = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ scan.affine)
    for region, mask in zip(structures.ROIContourSequence, results["masks"], strict=True):
        assert mask
        assert len(region.ContourSequence) == mask.voxels.any(axis=(0, 1)).sum()
        area = 0.0
        for contour in region.ContourSequence:
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            index = nibabel.affines.apply_affine(inverse, points)
            assert np.ptp(index[:, 2]) < 0.01
            np.testing.assert_allclose(index[:, 2], np.round(index[:, 2]), atol=0.01)
            x, y = index[:, 0], index[:, 1]
            area += abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
            low, high = np.array(mask.origin[:2]) - 0.51, np.add(mask.origin[:2], mask.voxels.shape[:2]) - 0.49
            assert (index[:, :2] >= low).all()
            assert (index[:, :2] <= high).all()
        assert area == pytest.approx(mask.voxels.sum(), rel=0.08)


def test_key_objects_are_the_slices_through_the_nodules(three: Made) -> None:
    _, results, files = three
    document = pydicom.dcmread(files["key_objects.dcm"])
    references = [item.ReferencedSOPSequence[0] for item in document.ContentSequence if "ReferencedSOPSequence" in item]
    named = {one.ReferencedSOPInstanceUID for one in references}
    series = [pydicom.dcmread(path) for path in (files["key_objects.dcm"].parents[2] / "series").iterdir()]
    heights = {image.SOPInstanceUID: image.ImagePositionPatient for image in series}
    assert named <= heights.keys()
    assert len(named) == len({found["coordinates_voxel"][2] for found in results["detections"]})


def test_segments_have_colours_and_the_report_has_sides(three: Made) -> None:
    _, _, files = three
    seg = hd.seg.segread(files["nodules_seg.dcm"])
    colours = [tuple(item.RecommendedDisplayCIELabValue) for item in seg.SegmentSequence]
    assert len(set(colours)) == 3
    content: Any = hd.sr.srread(files["nodules_sr.dcm"])
    for group in content.content.get_volumetric_roi_measurement_groups():
        assert group.finding_sites[0].laterality.meaning == "Left"


def test_exports_without_nodules_are_empty_or_missing(none: Made) -> None:
    _, _, files = none
    image: Any = nibabel.load(files["masks.nii.gz"])
    assert not np.asarray(image.dataobj).any()
    assert len(pd.read_csv(files["luna16.csv"])) == len(pd.read_csv(files["findings.csv"])) == 0
    assert json.loads(files["coco.json"].read_text())["annotations"] == []
    assert json.loads(files["boxes.json"].read_text())["pred_boxes"] == []
    assert json.loads(files["nodules.mrk.json"].read_text())["markups"][0]["controlPoints"] == []
    assert Bundle.model_validate_json(files["fhir.json"].read_text()).entry
    assert not {"rtstruct.dcm", "key_objects.dcm"} & files.keys()
