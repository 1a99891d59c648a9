"""Patient data: read from YAML, used by the guidelines, and written nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import BadConfig
from src.guidelines.apply import SOURCES
from src.guidelines.patient import Patient, load_patient
from src.inference.main import InferencePipeline, main

from .small_scans import block, save_nifti, tiny_checkpoint

KNOWN: dict[str, Any] = {
    "age": 77,
    "sex": "female",
    "smoking": "former",
    "family_history": True,
    "emphysema": False,
    "prior_cancer": False,
    "immunosuppressed": False,
    "setting": "incidental",
    "prior_ct": False,
}
QUICK = "output: {save_visualization: false, save_heatmap: false}"


def test_a_patient_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "patient.yaml"
    file.write_text("age: 62\nsex: female\nsmoking: never\nprior_ct: false\n")
    patient = load_patient(file)
    assert patient == load_patient({"age": 62, "sex": "female", "smoking": "never", "prior_ct": False})
    assert patient.missing("age", "emphysema", "prior_ct") == ["emphysema"]
    assert load_patient(patient) is patient
    file.write_text("# nothing is known\n")
    assert load_patient(file) == load_patient() == Patient()


def test_printing_a_patient_shows_no_data() -> None:
    assert repr(Patient(**KNOWN)) == "Patient()"
    assert str(Patient(**KNOWN)) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age: 777", "age: Input should be less than or equal to 120"),
        ("age: '77'", "age: Input should be a valid integer"),
        ("age: true", "age: Value error, must not be true or false, but is True"),
        ("sex: 77", "sex: Input should be 'female' or 'male'"),
        ("smoking: no", "smoking: Input should be 'never', 'former' or 'current'"),
        ("emphysema: 77", "emphysema: Input should be a valid boolean"),
        ("smokes: 77", "smokes: unknown key; known are age, sex, smoking, "),
        ("77", "it must hold keys such as `age: 62`"),
        ("[age, 77]", "it must hold keys such as `age: 62`"),
        ("sex: female\nage: [77", "is not valid YAML: see line 2"),
        ("age: \x0077", "is not valid YAML"),
    ],
)
def test_the_error_for_a_wrong_patient_file_contains_no_values(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig) as caught:
        load_patient(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "77" not in str(caught.value).replace(str(file), "")


def test_a_missing_patient_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"cannot read the patient file .*none.yaml: No such file"):
        load_patient(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "arguments",
    [["--input-dir", "scans"], ["--demo"], ["--input", "a.nii", "--resume"]],
)
def test_a_patient_file_is_accepted_for_a_single_scan_only(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--patient", "patient.yaml"]) == 2
    assert "--patient goes with --input alone" in capsys.readouterr().err


def test_the_command_line_reads_the_patient_before_the_scan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("age: -77")
    assert main(["--input", str(tmp_path / "no.nii"), "--patient", str(tmp_path / "p.yaml")]) == 2
    assert "age: Input should be greater than or equal to 0" in capsys.readouterr().err


def test_the_guidelines_use_the_patient_and_the_report_does_not_contain_it(tmp_path: Path) -> None:
    scan = save_nifti(block()[0], tmp_path / "scan.nii.gz")
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "patient.yaml").write_text(json.dumps(KNOWN))  # JSON is YAML
    reports = []
    for name, options in (("without", []), ("with", ["--patient", str(tmp_path / "patient.yaml")])):
        output = tmp_path / name
        command = ["--input", str(scan), "--output", str(output), "--config", str(tmp_path / "quick.yaml"), *options]
        assert main(command) == 0
        assert [file.name for file in output.iterdir()] == ["scan_detections.json"]
        reports.append(json.loads((output / "scan_detections.json").read_text()))
    without, known = reports
    _check_unknown(without)
    _check_known(known)
    assert _rest(without) == _rest(known)


def _check_unknown(report: dict[str, Any]) -> None:
    """Check the guidelines for a 20 mm solid nodule of an unknown patient."""
    [found] = report["detections"]
    rules = found["guidelines"]
    assert rules["lung_rads"]["category"] == "4B"
    assert "screening assumption: baseline, no prior" in rules["lung_rads"]["assumptions"]
    assert rules["fleischner"]["reason"] == "needs the patient's age, prior_cancer, immunosuppressed"
    assert rules["brock"]["2a"] is None
    assert rules["brock"]["reason"] == "needs the patient's age, sex, family_history, emphysema"
    assert rules["bts"]["management"].startswith("assess the risk")
    assert report["summary"]["lung_rads"]["category"] == "4B"
    assert report["metadata"]["guidelines"] == {**SOURCES, "patient": False}


def _check_known(report: dict[str, Any]) -> None:
    rules = report["detections"][0]["guidelines"]
    assert rules["lung_rads"]["category"] is report["summary"]["lung_rads"]["category"] is None
    assert "not for incidental nodules" in report["summary"]["lung_rads"]["reason"]
    assert rules["fleischner"]["low_risk"] is None
    assert "tissue sampling" in rules["fleischner"]["high_risk"]
    assert 0.1 < rules["brock"]["2a"]["other_lobe"] < rules["brock"]["2a"]["upper_lobe"] < 1
    assert report["metadata"]["guidelines"] == {**SOURCES, "patient": True}


def _rest(report: dict[str, Any]) -> dict[str, Any]:
    """The report without the guidelines and without values that differ from run to run."""
    metadata = {k: v for k, v in report["metadata"].items() if k not in ("guidelines", "timings_seconds")}
    detections = [{k: v for k, v in found.items() if k != "guidelines"} for found in report["detections"]]
    summary = {k: v for k, v in report["summary"].items() if k not in ("lung_rads", "processing_time_seconds")}
    return {"scan": report["scan_id"], "metadata": metadata, "detections": detections, "summary": summary}


def test_a_scan_processed_for_a_patient_is_processed_again_without_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = save_nifti(block()[0], tmp_path / "scan.nii.gz")
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "patient.yaml").write_text("age: 77")
    checkpoint = str(tiny_checkpoint(tmp_path / "tiny.pth"))
    command = ["--input", str(scan), "--output", str(tmp_path), "--config", str(tmp_path / "quick.yaml")]
    command += ["--checkpoint", checkpoint]
    assert main([*command, "--patient", str(tmp_path / "patient.yaml")]) == 6  # it shows no lungs
    assert main([*command, "--resume"]) == 6
    assert "is repeated: its results were made with another guidelines.patient" in caplog.text
    assert main([*command, "--resume"]) == 0
    assert "1 complete already" in capsys.readouterr().out


def test_predict_takes_a_patient_as_a_mapping(tmp_path: Path) -> None:
    ready = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"))
    results = ready.predict(block()[0], patient=KNOWN)
    assert "not for incidental nodules" in results["summary"]["lung_rads"]["reason"]
    with pytest.raises(BadConfig, match="patient cannot be used:\n  sex: Input should be"):
        ready.predict(block()[0], patient={"sex": "f"})
