"""The report: its content, the warning on every page, reproducibility and errors."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader

from src.errors import BadOutput, BadScan, PivotError
from src.inference.main import InferencePipeline
from src.results.output_formatter import save_json
from src.runs.outputs import is_complete, output_names, write_outputs
from src.types import Scan, Volume
from src.viz.model_card import model_card
from src.viz.report import generate_report, write_report
from src.viz.report_blocks import RESEARCH_USE, Text
from src.viz.report_nodule import _axial_image
from src.viz.report_views import nodule_views
from src.viz.slices import mark, stage

from .dicom_files import CHEST, write_series
from .small_scans import block, save_nifti, tiny_checkpoint


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The results of the shipped model on a block of the synthetic chest, without heatmap and masks as in JSON."""
    results = InferencePipeline().predict(block()[0])
    return {key: value for key, value in results.items() if key not in ("heatmap", "masks")}


def nodule(number: int = 0, **more: Any) -> Any:  # noqa: ANN401 - stands for a Detection
    return {"id": number, "coordinates": (30.0, 30.0, 30.0), "diameter_mm": 6.0, "confidence": 0.5, **more}


def pages(path: Path) -> list[str]:
    """The words of each page, on one line."""
    return [" ".join(page.extract_text().split()) for page in PdfReader(path).pages]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_the_report_lists_the_findings_and_the_method(report: dict[str, Any], tmp_path: Path) -> None:
    scan = save_nifti(block()[0], tmp_path / "scan.nii.gz")
    save_json(report, tmp_path / "scan_detections.json")
    generate_report(
        scan_path=scan, detections=tmp_path / "scan_detections.json", output_path=tmp_path / "new" / "report.pdf"
    )
    (found,) = report["detections"]
    text = " ".join(pages(tmp_path / "new" / "report.pdf"))
    for part in (
        "Name scan",
        "Voxels 32 x 32 x 26",
        "Spacing 2.00 x 2.00 x 2.50 mm",
        "Axial slices 26, 2.50 mm apart",
        f"Analysed on {report['timestamp']}",
        "1 nodule marked, but no lungs are recognised.",
        "By risk category:",
        f"Diameter {found['diameter_mm']:.1f} mm, measured",
        f"Volume {found['properties']['volume_mm3']:.0f} mm³",
        f"Type {found['properties']['nodule_type']}",
        f"Confidence {found['confidence']:.2f} of 1",
        f"Nodule probability {found['nodule_probability']:.2f} of 1, by the model's validation",
        f"Score {found['triage']['malignancy_score']:.2f} of 1, {found['triage']['risk_category']}: ",
        "rated malignant by eye",
        "not a probability of cancer",
        "Place (estimated)",
        "Lung-RADS v2022 4B (assumptions: baseline screening CT, no prior CT; ",
        f"Management {found['guidelines']['lung_rads']['management']}",
        f"Image slice {found['coordinates_voxel'][2] + 1}",
        "BTS 2015 ",
        "Peaks of at least 0.5, 10 mm apart",
        report["metadata"]["checkpoint"]["sha256"],
    ):
        assert part in text, part
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.pdf"]


def test_the_text_report_has_the_same_content_without_pictures(report: dict[str, Any], tmp_path: Path) -> None:
    for name in ("r.pdf", "r.md", "r.txt"):
        write_report(block()[0], report, tmp_path / name)
    markdown = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert markdown == (tmp_path / "r.txt").read_text(encoding="utf-8")
    assert markdown.startswith(RESEARCH_USE)
    assert re.search(r"\| 1 \| slice \d+ \| 20\.", markdown)
    footer = set(words(RESEARCH_USE)) | {"page", "of", "on", "block_0"} | set("0123456789")
    assert set(words(" ".join(pages(tmp_path / "r.pdf")))) - footer == set(words(markdown)) - footer


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (1, 2), (7, 4)])
def test_every_page_has_the_warning_and_its_page_number(count: int, expected: int, tmp_path: Path) -> None:
    write_report(block()[0], [nodule(number) for number in range(count)], tmp_path / "r.pdf")
    found = pages(tmp_path / "r.pdf")
    assert len(found) == expected
    for number, page in enumerate(found, start=1):
        assert RESEARCH_USE in page
        assert f"page {number} of {expected}" in page
    assert ("No nodule above the thresholds" in found[0]) == (count == 0)


def test_a_hundred_nodules_are_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, _ = block()
    on = stage(Volume(scan.array, scan.affine), scan.spacing)
    picture = nodule_views(on, mark(on, [nodule()])[0], nodule(), None)
    monkeypatch.setattr(
        "src.viz.report_nodule.nodule_views", lambda *_: picture
    )  # each picture takes a quarter of a second
    write_report(scan, [nodule(number) for number in range(100)], tmp_path / "r.pdf")
    found = pages(tmp_path / "r.pdf")
    assert len(found) < 40
    numbers = re.findall(r"Nodule (\d+) Diameter", " ".join(found))
    assert [int(number) for number in numbers] == list(range(1, 101))
    assert len(picture.jpeg) * 100 < 10_000_000


def test_the_same_input_gives_the_same_bytes(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(block()[0], report, tmp_path / "a.pdf")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write_report(block()[0], json.loads(json.dumps(report)), tmp_path / "b.pdf")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_a_plain_list_of_detections_is_enough_and_the_model_is_unknown(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(block()[0], report["detections"], tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "Model: not known" in text
    assert "given without their report, which names the model" in text


def test_missing_measurements_and_scores_are_stated(tmp_path: Path) -> None:
    bare = nodule(3, properties={"volume_mm3": None}, triage={"malignancy_score": None, "reason": "too <large> & odd"})
    write_report(block()[0], [bare], tmp_path / "r.pdf")
    text = " ".join(pages(tmp_path / "r.pdf"))
    assert "Volume not measured" in text
    assert "none: too <large> & odd" in text
    assert "None" not in text


@pytest.mark.parametrize("name", ["Ärzte_öé", "Θώρακας", "Грудная клетка", "a<b>&c"])
def test_names_in_other_scripts_are_written(name: str, tmp_path: Path) -> None:
    scan = save_nifti(block()[0], tmp_path / f"{name}.nii.gz")
    generate_report(scan, [], tmp_path / f"{name}.pdf")
    assert f"Name {name}" in pages(tmp_path / f"{name}.pdf")[0]


def test_unprintable_characters_are_accepted(tmp_path: Path) -> None:
    scan = Scan(block()[0].array, block()[0].affine, "a\udcff\n\x00b")
    for name in ("r.pdf", "r.md"):
        write_report(scan, [], tmp_path / name)
    assert "Name: a???b" in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "Name a???b" in pages(tmp_path / "r.pdf")[0]


def test_patient_data_stay_out_of_the_report(tmp_path: Path) -> None:
    def secret(dataset: Any) -> None:  # noqa: ANN401 - a pydicom dataset
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Topsecret^Jane", "ID4711", "19500102"

    folder = write_series(tmp_path / "series", CHEST, edit=secret)
    for name in ("r.pdf", "r.md"):
        generate_report(folder, [], tmp_path / name)
    text = " ".join(pages(tmp_path / "r.pdf")) + str(PdfReader(tmp_path / "r.pdf").metadata)
    text += (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "Axial slices" in text
    for word in ("Topsecret", "Jane", "4711", "19500102"):
        assert word not in text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"output_path": "r.docx"}, BadOutput, r"r\.docx: its name must end in \.pdf, \.md or \.txt"),
        ({"scan_path": "missing.nii.gz"}, BadScan, r"missing\.nii\.gz: there is no such file"),
        ({"detections": "missing.json"}, BadOutput, "cannot read the detections missing.json"),
        ({"detections": [{"x": 1}]}, BadOutput, r"detections\[0\] lacks coordinates"),
        (
            {"detections": {"detections": [], "metadata": {"shape": [512, 512, 9]}}},
            BadOutput,
            r"of another scan: it has \[512, 512, 9\] voxels, this one has \[32, 32, 26\]",
        ),
    ],
)
def test_mistakes_give_a_clear_error_and_leave_no_file(
    change: dict[str, Any], error: type[PivotError], message: str, tmp_path: Path
) -> None:
    scan = save_nifti(block()[0], tmp_path / "scan.nii.gz")
    arguments = {"scan_path": scan, "detections": [], "output_path": tmp_path / "new" / "r.pdf", **change}
    with pytest.raises(error, match=message):
        generate_report(**arguments)
    assert not (tmp_path / "new").exists()


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match=r"cannot write .*file/r\.pdf: "):
        write_report(block()[0], [], tmp_path / "file" / "r.pdf")


def test_the_model_card_is_cited_for_the_shipped_weights_only(report: dict[str, Any], root: Path) -> None:
    checkpoint = report["metadata"]["checkpoint"]
    card = (root / "checkpoints" / "MODEL_CARD.md").read_text(encoding="utf-8")
    parts = card.split("\n\n")[1:]
    cited = set(words(str(model_card(checkpoint))))
    for part in (parts[0], *(part for part in parts if part.startswith(("|", "**Limits")))):
        assert set(words(part)) <= cited
    assert 200 < len(str(model_card(checkpoint))) < 0.7 * len(card)
    other = model_card({**checkpoint, "sha256": "0" * 64})
    assert any("not PIVOT's shipped model" in block.text for block in other if isinstance(block, Text))
    assert "Validation" not in str(other)


def test_the_views_show_the_nodule_in_the_middle(tmp_path: Path) -> None:
    scan, truth = block(2)
    on = stage(Volume(scan.array, scan.affine), scan.spacing)
    found = nodule(coordinates=truth.coordinates, diameter_mm=truth.diameter_mm)
    [one] = mark(on, [found])
    (tmp_path / "v.jpg").write_bytes(nodule_views(on, one, found, None).jpeg)
    with Image.open(tmp_path / "v.jpg") as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    for panel in range(1, 4):
        x, y = round(width * (panel + 0.5) / 4), round(height * 0.52)
        part = picture[y - height // 3 : y + height // 3, x - height // 3 : x + height // 3]
        ring = np.argwhere((part[..., 2] > 150) & (part[..., 0] < 130))  # no score: blue
        middle, reach = (ring.min(axis=0) + ring.max(axis=0)) / 2, len(part) / 2
        assert np.abs(middle - reach).max() < 0.2 * reach  # the number beside it is blue too
        assert picture[y - 5 : y + 5, x - 5 : x + 5].mean() > picture[:, x - height // 2 : x + height // 2].mean() + 30


def test_the_pipeline_writes_the_report_with_the_other_outputs(tmp_path: Path) -> None:
    ready = InferencePipeline(tiny_checkpoint(tmp_path / "t.pth"), {"output": {"save_report": True}})
    files = write_outputs(block()[0], ready.predict(block()[0]), ready.config, tmp_path / "out")
    assert [file.name for file in files] == output_names("block_0", ready.config)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in files}
    assert "not PIVOT's shipped model" in " ".join(pages(tmp_path / "out" / "block_0_report.pdf"))
    (tmp_path / "out" / "block_0_report.pdf").unlink()
    assert not is_complete(Path("block_0"), ready.config, tmp_path / "out", ready.origin)


def test_a_report_that_fails_leaves_none_of_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        msg = "disk full"
        raise BadOutput(msg)

    monkeypatch.setattr("src.viz.report.write_report", full)
    ready = InferencePipeline(tiny_checkpoint(tmp_path / "t.pth"), {"output": {"save_report": True}})
    with pytest.raises(BadOutput, match="disk full"):
        write_outputs(block()[0], ready.predict(block()[0]), ready.config, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("number", "turn", "words"),
    [(45, np.eye(4), "image 45"), (None, np.eye(4), "slice 13"), (45, np.eye(4)[[0, 2, 1, 3]], "")],
    ids=["DICOM", "a file without image numbers", "a coronal series"],
)
def test_the_axial_picture_names_its_image(number: int | None, turn: Any, words: str) -> None:  # noqa: ANN401
    on = stage(Volume(np.zeros((20, 20, 20), np.int16), turn), (1.0, 1.0, 1.0))
    found = nodule(coordinates_voxel=(10, 10, 12), image_number=number)
    assert _axial_image(on, found) == words


def test_the_management_follows_the_category_even_if_it_is_short(report: dict[str, Any], tmp_path: Path) -> None:
    changed = json.loads(json.dumps(report))
    (found,) = changed["detections"]
    found["guidelines"]["lung_rads"] |= {"category": "2", "management": "short", "assumptions": [], "reason": None}
    generate_report(block()[0], changed, tmp_path / "r.pdf")
    assert "Lung-RADS v2022 2 Management short" in " ".join(pages(tmp_path / "r.pdf"))
