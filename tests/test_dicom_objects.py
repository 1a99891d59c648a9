"""Results as DICOM objects: position, study, validity and reproducibility."""

import copy
import shutil
import subprocess
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from src.config import Config
from src.data.geometry import RAS_TO_LPS, canonical, map_points, to_lps, turn_box
from src.data.loader import read_scan
from src.detection.pipeline import InferencePipeline
from src.dicom_io.export import export_objects
from src.errors import BadScan
from src.guidelines.apply import apply_guidelines
from src.guidelines.patient import Patient
from src.inference.main import main
from src.triage.model import score
from src.types import Affine, NoduleMask, Properties, Results, Scan, Vec3, Volume

from .dicom_files import change, nifti, only, shift, without, write_enhanced, write_series, zipped
from .small_scans import TURNS, block, tiny_checkpoint, turned

SHAPE, SPACING = (36, 40, 30), (1.2, 1.0, 2.0)
FRAME, SECRET = "1.2.3.4.5", "Geheim^Anna Mária"
KINDS = {
    "Comprehensive3DSR", "Segmentation", "ParametricMap", "SCImage", "EncapsulatedPDF", "RTStructureSet",
    "KeyObjectSelectionDocument",
}  # fmt: skip
DCIODVFY, DSRDUMP = shutil.which("dciodvfy"), shutil.which("dsrdump")
ALL = ("heatmap_dicom", "rtstruct", "key_objects")
PLACES: dict[str, list[tuple[Vec3, float]]] = {  # mm from the first voxel, radius in mm
    "0 nodules": [],
    "1 nodule": [((20, 18, 30), 5)],
    "2 overlapping": [((18, 18, 30), 6), ((24, 20, 32), 5)],
    "3 nodules": [((12, 12, 14), 4), ((30, 28, 46), 4), ((20, 18, 30), 5)],
}


def affine_of(kind: str) -> Affine:
    """An affine in RAS: an axial series, one from the head down, one in another plane, or an oblique one."""
    angle = np.radians(20)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    axes = {
        "axial": np.eye(3),
        "from the head down": np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]]),
        "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
        "oblique": tilt,
    }[kind]
    affine = np.eye(4)
    affine[:3, :3] = axes * SPACING
    affine[:3, 3] = (-40.5, -61.25, 105)
    return RAS_TO_LPS @ affine


def header(dataset: Dataset) -> None:
    """Set the attributes that a scanner writes and `slice_dataset` leaves out."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = SECRET, "19501231", "F"
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = FRAME, ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20240229", "101500", "S1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName, dataset.Manufacturer = "A1", "", ""
    dataset.StudyDescription = "CT Thorax nativ"
    dataset.private_block(0x0013, "VENDOR", create=True).add_new(1, "LO", "private")


def scan_with(balls: list[tuple[Vec3, float]], affine: Affine) -> tuple[Scan, Results]:
    """A scan of lung with balls of soft tissue, and results that list them."""
    array = np.random.default_rng(5).integers(-900, -800, SHAPE)
    grid = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING
    heatmap = np.zeros(SHAPE, np.float32)
    masks, detections = list[NoduleMask | None](), list[Any]()
    for number, (centre, radius) in enumerate(balls):
        away = np.linalg.norm(grid - centre, axis=-1)
        inside = away < radius
        array[inside] = 40
        heatmap = np.maximum(heatmap, np.exp(-((away / radius) ** 2)).astype(np.float32))
        first = np.argwhere(inside).min(axis=0)
        end = np.argwhere(inside).max(axis=0) + 1
        x, y, z = (int(index) for index in first)
        masks.append(NoduleMask(inside[tuple(map(slice, first, end))], (x, y, z)))
        properties = measured(radius)
        index = np.divide(centre, SPACING)
        detections.append(
            {
                "id": number,
                "coordinates": centre,
                "coordinates_voxel": tuple(int(i) for i in np.round(index)),
                "coordinates_lps": tuple(to_lps(affine, index).tolist()),
                "diameter_mm": 2.0 * radius,
                "diameter_source": "segmentation",
                "confidence": 0.91 - 0.1 * number,
                "properties": properties,
                "triage": score(properties, 2.0 * radius),
            }
        )
    ruled = apply_guidelines([found["properties"] for found in detections], Patient())
    for found, rules in zip(detections, ruled, strict=True):
        found["guidelines"] = rules
    metadata = {
        "series_uid": "1.2.3.1",
        "checkpoint": {"name": "unet_test", "version": "3", "sha256": "ab" * 32},
        "versions": {"pivot": "9.9"},
        "config": Config().model_dump(mode="json"),
    }
    results = Results(
        scan_id="scan",
        model="unet_test",
        timestamp="2026-01-02T03:04:05Z",
        metadata=metadata,
        detections=detections,
        masses=[],
        candidates=[],
        summary={},
        heatmap=Volume(heatmap, affine),
        masks=masks,
    )
    return Scan(array.astype(np.int16), affine), results


def measured(radius: float) -> Properties:
    return {
        "volume_mm3": 4 / 3 * np.pi * radius**3,
        "mean_intensity": 38.5,
        "std_intensity": 12.0,
        "min_intensity": -400.0,
        "max_intensity": 90.0,
        "effective_diameter_mm": 2.0 * radius,
        "long_axis_mm": 2.0 * radius,
        "short_axis_mm": 1.9 * radius,
        "sphericity": 0.9,
        "solid_fraction": 1.0,
        "nodule_type": "solid",
    }


def written(
    folder: Path, case: str, kind: str = "axial", edit: Callable[[Dataset], object] = header
) -> tuple[Results, dict[str, Path]]:
    """The results of a case, and its DICOM objects by file name."""
    scan, results = scan_with(PLACES[case], affine_of(kind))
    series = write_series(folder / "series", scan.array, scan.affine, edit=edit)
    (folder / "out").mkdir(exist_ok=True)
    (folder / "report.pdf").write_bytes(b"%PDF-1.4 an odd number of bytes.")
    pictures = [np.full((40, 60, 3), 7 * number, np.uint8) for number in range(len(PLACES[case]))]
    paths = export_objects(series, results, folder / "out", folder / "report.pdf", pictures, ALL)
    assert set(paths) == set((folder / "out").iterdir())
    return results, {path.stem: path for path in paths}


def segment_centres(seg: Any) -> list[np.ndarray]:  # noqa: ANN401 - highdicom's
    """The centre of each segment in LPS millimetres, from highdicom's geometry."""
    centres = []
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True, allow_missing_positions=True)
        index = np.argwhere(volume.array > 0).mean(axis=0)
        centres.append(map_points(volume.affine, index))
    return centres


@pytest.mark.parametrize("kind", ["axial", "from the head down", "coronal", "oblique"])
@pytest.mark.parametrize("case", ["1 nodule", "2 overlapping", "3 nodules"])
def test_points_segments_and_heatmap_have_the_positions_of_the_nodules(case: str, kind: str, tmp_path: Path) -> None:
    results, objects = written(tmp_path, case, kind)
    expected = np.array([found["coordinates_lps"] for found in results["detections"]], dtype=np.float64)
    seg = hd.seg.segread(objects["nodules_seg"])
    for centre, place in zip(segment_centres(seg), expected, strict=True):
        assert np.linalg.norm(centre - place) < 0.4  # the voxels of a ball on a coarse grid are slightly off its centre
    report = hd.sr.srread(objects["nodules_sr"])
    points = points_of(report, "SCOORD3D")
    np.testing.assert_allclose([point.GraphicData for point in points], expected, atol=0.01)
    assert {str(point.ReferencedFrameOfReferenceUID) for point in points} == {FRAME}
    for point, place in zip(points_of(report, "SCOORD"), expected, strict=True):
        away, normal = place_on_image(point, tmp_path / "series") - place, np.cross(*axes_of_image(tmp_path / "series"))
        assert abs(away @ normal) <= SPACING[2] / 2 + 0.01  # no other slice is nearer
        np.testing.assert_allclose(away - (away @ normal) * normal, 0, atol=0.01)
    assert str(seg.FrameOfReferenceUID) == FRAME
    check_heatmap(objects["heatmap"], results)


def content_of(path: Path) -> Any:  # noqa: ANN401 - highdicom's MeasurementReport
    report: Any = hd.sr.srread(path)
    return report.content


def points_of(report: Dataset, kind: str) -> list[Dataset]:
    found: list[Dataset] = []
    report.walk(lambda dataset, element: found.append(dataset) if element.keyword == "GraphicData" else None)
    return [one for one in found if one.ValueType == kind]


def axes_of_image(series: Path) -> tuple[np.ndarray, np.ndarray]:
    """The directions of a row and of a column of a series' images."""
    orientation = np.array(pydicom.dcmread(next(series.iterdir())).ImageOrientationPatient, dtype=np.float64)
    return orientation[:3], orientation[3:]


def place_on_image(point: Dataset, series: Path) -> np.ndarray:
    """Where in space a point of an image lies, by the headers alone."""
    uid = point.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    [image] = [one for one in map(pydicom.dcmread, series.iterdir()) if one.SOPInstanceUID == uid]
    (column, row), (down, across) = point.GraphicData, image.PixelSpacing
    along, below = axes_of_image(series)
    shift = along * (column - 0.5) * float(across) + below * (row - 0.5) * float(down)
    place: np.ndarray = np.array(image.ImagePositionPatient, dtype=np.float64) + shift
    return place


def check_heatmap(path: Path, results: Results) -> None:
    volume = hd.imread(path).get_volume()
    heatmap = np.asarray(results["heatmap"])
    to_scan = np.linalg.inv(RAS_TO_LPS @ results["heatmap"].affine) @ volume.affine  # type: ignore[operator]
    first = map_points(to_scan, (0, 0, 0))
    last = map_points(to_scan, np.subtract(volume.shape, 1))
    low, high = np.round(np.minimum(first, last)).astype(int), np.round(np.maximum(first, last)).astype(int)
    assert tuple(low[:2]) == (0, 0)
    box = heatmap[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    index = np.array([map_points(to_scan, i) - low for i in np.ndindex(*volume.shape)]).round().astype(int)
    np.testing.assert_array_equal(volume.array.ravel(), box[tuple(index.T)])
    assert heatmap.max() == volume.array.max()
    assert heatmap[..., : low[2]].max(initial=0) < 1 / 255
    assert heatmap[..., high[2] + 1 :].max(initial=0) < 1 / 255


@pytest.mark.parametrize("case", PLACES)
def test_every_nodule_has_a_measurement_group_that_refers_to_its_segment(case: str, tmp_path: Path) -> None:
    results, objects = written(tmp_path, case)
    report = content_of(objects["nodules_sr"])
    groups = report.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(results["detections"])
    if not groups:
        assert "nodules_seg" not in objects
        (none,) = report.get_image_measurement_groups()
        (presence,) = none.get_qualitative_evaluations()
        assert (presence.name.meaning, presence.value.meaning) == ("Presence", "Absent")
        return
    seg = hd.seg.segread(objects["nodules_seg"])
    assert [item.SegmentLabel for item in seg.SegmentSequence] == [f"Nodule {n}" for n in range(1, len(groups) + 1)]
    uids = [str(item.TrackingUID) for item in seg.SegmentSequence]
    assert len(set(uids)) == len(uids)
    for number, (group, uid) in enumerate(zip(groups, uids, strict=True), 1):
        assert group.tracking_uid == uid
        assert group.tracking_identifier == f"Nodule {number}"
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert reference.referenced_segment_numbers in (number, [number])


def test_overlapping_segments_both_keep_the_common_voxels(tmp_path: Path) -> None:
    results, objects = written(tmp_path, "2 overlapping")
    seg = hd.seg.segread(objects["nodules_seg"])
    volume = seg.get_volume(combine_segments=False, allow_missing_positions=True).array
    sizes = [mask.voxels.sum() for mask in results["masks"] if mask]
    np.testing.assert_array_equal(volume.sum(axis=(0, 1, 2)), sizes)
    assert volume.all(axis=-1).any()


def test_the_report_holds_the_values_of_the_json(tmp_path: Path) -> None:
    results, objects = written(tmp_path, "1 nodule")
    (found,) = results["detections"]
    (group,) = content_of(objects["nodules_sr"]).get_volumetric_roi_measurement_groups()
    assert (group.finding_type.value, group.finding_sites[0].value.value) == ("27925004", "39607008")
    values = {item.name.value: (item.value, item.unit.value) for item in group.get_measurements()}
    properties, triage = found["properties"], found["triage"]
    percent = {"111012": found["confidence"], "reader-suspicion": triage["malignancy_score"]}
    expected = {
        "118565006": (properties["volume_mm3"], "mm3"),
        "81827009": (found["diameter_mm"], "mm"),
        "103339001": (properties["long_axis_mm"], "mm"),
        "103340004": (properties["short_axis_mm"], "mm"),
        "112181": (properties["mean_intensity"], "[hnsf'U]"),
        "112179": (properties["min_intensity"], "[hnsf'U]"),
        "112180": (properties["max_intensity"], "[hnsf'U]"),
        "112183": (properties["std_intensity"], "[hnsf'U]"),
        "QCFX": (properties["sphericity"], "1"),
        **{code: (100 * share, "%") for code, share in percent.items() if share is not None},
    }
    assert len(expected) == 11
    assert "111047" not in values  # "Probability of cancer"
    (score,) = (item.name for item in group.get_measurements() if item.name.value == "reader-suspicion")
    assert score.scheme_designator == "99PIVOT"
    assert score.meaning == "Probability that readers suspect malignancy, not of cancer"
    assert set(values) == set(expected)
    for code, (value, unit) in expected.items():
        assert values[code] == (pytest.approx(value, abs=0.006), unit)
    (lung_rads,) = group.get_qualitative_evaluations()
    assert (lung_rads.name.value, lung_rads.value.value) == ("RID50134", "RID50139")  # 10 mm solid: 4A
    comments = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert any("malignant by eye" in text and "not of cancer" in text for text in comments)
    assert any(
        text.startswith("Lung-RADS v2022. Assumptions: baseline screening CT, no prior CT; ") for text in comments
    )


def test_unknown_values_are_left_out_and_a_nodule_without_boundary_is_a_point(tmp_path: Path) -> None:
    scan, results = scan_with(PLACES["3 nodules"], affine_of("axial"))
    first = results["detections"][0]
    empty: Any = dict.fromkeys(first["properties"])
    none: Any = {"malignancy_score": None, "risk_category": None, "reason": "too few voxels"}
    lung_rads: Any = {**first["guidelines"]["lung_rads"], "category": None}
    guidelines: Any = {**first["guidelines"], "lung_rads": lung_rads}
    results["detections"][0] = {
        **first,
        "properties": empty,
        "triage": none,
        "guidelines": guidelines,
        "diameter_source": "network",
    }
    results["masks"][0] = None
    series = write_series(tmp_path / "series", scan.array, scan.affine, edit=header)
    paths = export_objects(series, results, tmp_path)
    seg = hd.seg.segread(paths[1])
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["Nodule 2", "Nodule 3"]
    content = content_of(paths[0])
    (point,) = content.get_planar_roi_measurement_groups()
    assert {item.name.meaning for item in point.get_measurements()} == {"Diameter", "Certainty of Finding"}
    assert point.get_qualitative_evaluations() == []
    np.testing.assert_allclose(point.roi.value[0], np.array(first["coordinates_lps"]), atol=0.01)
    kinds = [item.ValueType for item in point[0].ContentSequence if item.ValueType.startswith("SCOORD")]
    assert kinds == ["SCOORD", "SCOORD3D"]  # in this order, as OHIF takes the first
    numbers = [
        group.referenced_segment.referenced_segment_numbers for group in content.get_volumetric_roi_measurement_groups()
    ]
    assert numbers in ([1, 2], [[1], [2]])


@pytest.mark.skipif(DCIODVFY is None, reason="needs dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize("case", PLACES)
def test_objects_are_valid(case: str, tmp_path: Path) -> None:
    _, objects = written(tmp_path, case)
    for path in objects.values():
        done = subprocess.run([str(DCIODVFY), "-new", path], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        assert [line for line in lines if line.startswith("Error")] == [], path.name
        assert any(line.strip() in KINDS for line in lines), lines


@pytest.mark.skipif(DSRDUMP is None, reason="needs dsrdump (Debian: dcmtk)")
@pytest.mark.parametrize("case", PLACES)
def test_dcmtk_reads_the_report(case: str, tmp_path: Path) -> None:
    _, objects = written(tmp_path, case)
    done = subprocess.run([str(DSRDUMP), objects["nodules_sr"]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Measurement Group") == max(1, len(PLACES[case]))
    assert done.stdout.count('"Center")=(POINT') == 2 * len(PLACES[case])  # one in space and one on the image
    assert "Verification Flag   : UNVERIFIED" in done.stdout


def test_all_objects_belong_to_the_study_and_copy_its_patient_but_no_private_data(tmp_path: Path) -> None:
    _, objects = written(tmp_path, "3 nodules")
    datasets = [pydicom.dcmread(path) for path in objects.values()]
    kept = {
        "PatientName": SECRET,
        "PatientID": "SECRET-ID",
        "PatientBirthDate": "19501231",
        "PatientSex": "F",
        "StudyInstanceUID": "1.2.3",
        "StudyDate": "20240229",
        "StudyTime": "101500",
        "StudyID": "S1",
        "AccessionNumber": "A1",
        "StudyDescription": "CT Thorax nativ",
    }
    for dataset in datasets:
        assert {name: str(dataset.get(name)) for name in kept} == kept
        assert not [element.tag for element in dataset.iterall() if element.tag.is_private]
        assert dataset.SoftwareVersions == ["9.9", "unet_test 3"]
    uids = [str(dataset.SOPInstanceUID) for dataset in datasets]
    assert len(set(uids)) == len(uids)
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    for one, other in combinations(datasets, 2):
        same = one.SOPClassUID == other.SOPClassUID
        assert (one.SeriesInstanceUID == other.SeriesInstanceUID) == same
        assert (one.SeriesNumber == other.SeriesNumber) == same


@pytest.mark.parametrize(
    "names",
    [
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"PatientName": "nocaret", "PatientSex": "W", "PatientBirthDate": "unknown", "StudyDate": "yesterday"},
        {"PatientName": None, "PatientID": None, "PatientBirthDate": None, "PatientSex": None},
    ],
    ids=["Latin 1", "Japanese", "unusual", "empty"],
)
def test_unusual_names_are_copied_unchanged_and_never_logged(
    names: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(dataset: Dataset) -> None:
        header(dataset)
        for name, value in names.items():
            dataset.add_new(name, pydicom.datadict.dictionary_VR(name), value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about the test's own files
        _, objects = written(tmp_path, "1 nodule", edit=edit)
    for path in objects.values():
        dataset = pydicom.dcmread(path)
        for name, value in names.items():
            assert (dataset[name].value or None) == value
    assert "nocaret" not in caplog.text


def test_the_pdf_and_the_pictures_are_embedded_unchanged(tmp_path: Path) -> None:
    _, objects = written(tmp_path, "3 nodules")
    pdf = pydicom.dcmread(objects["report"])
    content = (tmp_path / "report.pdf").read_bytes()
    assert pdf.EncapsulatedDocument[: pdf.EncapsulatedDocumentLength] == content
    assert pdf.MIMETypeOfEncapsulatedDocument == "application/pdf"
    for number in (1, 2, 3):
        image = pydicom.dcmread(objects[f"key_image_{number:03d}"])
        assert image.pixel_array.shape == (40, 60, 3)
        assert (image.pixel_array == 7 * (number - 1)).all()
        assert image.ImageComments == "NOT FOR DIAGNOSIS"
        assert image.InstanceNumber == number


def test_the_same_results_give_the_same_bytes_and_different_results_different_uids(tmp_path: Path) -> None:
    scan, results = scan_with(PLACES["1 nodule"], affine_of("axial"))
    series = write_series(tmp_path / "series", scan.array, scan.affine, edit=header)
    packed = zipped(tmp_path / "series.zip", series)
    once, later, other, version = (copy.deepcopy(results) for _ in range(4))
    later["timestamp"] = "2027-01-01T00:00:00Z"
    later["detections"][0]["confidence"] += 1e-9  # another number of threads may cause a difference of this size
    other["detections"][0]["confidence"] -= 0.1
    version["metadata"]["versions"]["pivot"] = "10.0"
    contents, uids, tracks = [], [], []
    for name, source, content in (
        ("a", series, once),
        ("b", packed, once),
        ("c", series, later),
        ("d", series, other),
        ("e", series, version),
    ):
        (tmp_path / name).mkdir()
        paths = export_objects(source, content, tmp_path / name, asked=ALL)
        datasets = [pydicom.dcmread(path) for path in paths]
        contents.append([path.read_bytes() for path in paths])
        uids.append([str(dataset.SOPInstanceUID) for dataset in datasets])
        tracks.append(datasets[1].SegmentSequence[0].TrackingUID)
    assert contents[0] == contents[1]
    assert uids[0] == uids[2]
    assert len({uid for one in (uids[0], uids[3], uids[4]) for uid in one}) == 15
    assert len(set(tracks)) == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("FrameOfReferenceUID"), "has no value of FrameOfReferenceUID"),
        (only(3, change(FrameOfReferenceUID="1.9")), "has 2 different values of FrameOfReferenceUID"),
        (change(SeriesInstanceUID="1.2.3.77"), "the results are of another series"),
        (shift(2, lambda z: 6 if z > 15 else 0), "slices are missing between"),
        (shift(1, lambda z: 0.8 * z), "gantry tilt"),
    ],
    ids=["no frame", "two frames", "other series", "gap", "tilt"],
)
def test_a_series_without_the_needed_attributes_is_refused(
    edit: Callable[[Dataset], object], message: str, tmp_path: Path
) -> None:
    def both(dataset: Dataset) -> None:
        header(dataset)
        edit(dataset)

    scan, results = scan_with(PLACES["1 nodule"], affine_of("axial"))
    series = write_series(tmp_path / "series", scan.array, scan.affine, edit=both)
    with pytest.raises(BadScan, match=message) as caught:
        export_objects(series, results, tmp_path)
    assert str(caught.value).startswith(f"{series}: ")
    assert not list(tmp_path.glob("*.dcm"))
    assert not any(secret in str(caught.value) for secret in ("Geheim", "SECRET"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    scan, results = scan_with(PLACES["1 nodule"], affine_of("axial"))
    with pytest.raises(BadScan, match="is no DICOM series"):
        export_objects(nifti(tmp_path / "a.nii.gz", scan.array, scan.affine), results, tmp_path)
    with pytest.raises(BadScan, match="multi-frame"):
        export_objects(write_enhanced(tmp_path / "a.dcm", scan.array, scan.affine), results, tmp_path)
    cut = write_series(tmp_path / "cut", scan.array[..., :20], scan.affine, edit=header)
    with pytest.raises(BadScan, match=r"it has \[36, 40, 30\] voxels, the series has \[36, 40, 20\]"):
        export_objects(cut, results, tmp_path)


@given(st.sampled_from(TURNS), st.tuples(*(st.integers(0, n - 2) for n in (7, 6, 5))), st.data())
def test_a_box_of_the_reoriented_scan_maps_back_to_the_scan(
    turn: tuple[Any, Any], first: tuple[int, int, int], data: st.DataObject
) -> None:
    straight = np.arange(7 * 6 * 5).reshape(7, 6, 5)
    scan, _ = turned(Scan(straight, RAS_TO_LPS), *turn)
    array, affine = canonical(scan.array, scan.affine)
    size = [data.draw(st.integers(1, n - low)) for n, low in zip((7, 6, 5), first, strict=True)]
    box = array[tuple(slice(low, low + n) for low, n in zip(first, size, strict=True))]
    back, origin = turn_box(box, first, np.linalg.inv(scan.affine) @ affine)
    np.testing.assert_array_equal(
        back, scan.array[tuple(slice(low, low + n) for low, n in zip(origin, back.shape, strict=True))]
    )


@pytest.mark.parametrize("turn", [TURNS[0], TURNS[13], TURNS[38]])
def test_masks_cover_the_nodule_on_the_scans_own_grid(turn: tuple[Any, Any]) -> None:
    scan, _ = turned(block()[0], *turn)
    results = InferencePipeline().predict(scan)
    ((found,), (mask,)) = results["detections"], results["masks"]
    assert mask is not None
    box = tuple(slice(low, low + n) for low, n in zip(mask.origin, mask.voxels.shape, strict=True))
    assert scan.array[box][mask.voxels].mean() == pytest.approx(found["properties"]["mean_intensity"])
    centre = (np.argwhere(mask.voxels).mean(axis=0) + mask.origin) * scan.spacing
    assert np.linalg.norm(centre - found["coordinates"]) < 2


def test_the_command_line_writes_the_objects(tmp_path: Path) -> None:
    scan, _ = block()
    series = write_series(tmp_path / "chest.1", scan.array.astype(np.int16), scan.affine, edit=header)
    config = tmp_path / "config.yaml"
    config.write_text("output: {save_report: true, save_heatmap: false, save_visualization: false}")
    command = ["--input", str(series), "--output", str(tmp_path / "out"), "--config", str(config), "--dicom"]
    for _ in range(2):  # the second run replaces the folder
        assert main(command) == 0
        names = {path.name for path in (tmp_path / "out" / "chest.1_dicom").iterdir()}
        assert names == {"nodules_sr.dcm", "nodules_seg.dcm", "key_image_001.dcm", "report.dcm"}
        (tmp_path / "out" / "chest.1_dicom" / "stale.dcm").touch()
    image = pydicom.dcmread(tmp_path / "out" / "chest.1_dicom" / "key_image_001.dcm").pixel_array
    assert image.shape == (1024, 1024, 3)
    assert image.std() > 20
    assert read_scan(series).series_uid == "1.2.3.1"


def test_scans_that_are_not_dicom_are_refused_before_inference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, _ = block()
    path = nifti(tmp_path / "scan.nii.gz", scan.array, scan.affine)
    checkpoint = tiny_checkpoint(tmp_path / "tiny.pth")
    command = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--dicom"]
    assert main([*command, "--input", str(path)]) == BadScan.exit_code
    assert "needs a DICOM series" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert main([*command, "--demo"]) == 2
