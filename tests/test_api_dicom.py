"""DICOM objects of an uploaded series: the upload is read twice, each time in a confined process."""

import zipfile
from pathlib import Path

import nibabel
import numpy as np
from pydicom import Dataset

from .api_service import JOBS, api_on, nifti
from .dicom_files import chest, write_series

CONFIG = b"inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false, save_dicom: true}"


def _referable(dataset: Dataset) -> None:
    """Set the attributes that objects which refer to the series need."""
    dataset.FrameOfReferenceUID = "1.2.3.4"


def test_a_series_gets_dicom_objects_and_a_volume_gets_a_reason(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "series", chest(), edit=_referable)
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in slices.iterdir():
            archive.write(path, path.name)
    with api_on(tmp_path) as api:
        links = api.submit((tmp_path / "series.zip").read_bytes(), "series.zip", config=CONFIG).json()["links"]
        done = api.work()
        assert done.error is None
        files = {file["url"].rsplit("/", 1)[1]: file["url"] for file in api.client.get(links["files"]).json()["files"]}
        assert {"dicom.nodules_sr.dcm", "heatmap.nii.gz", "detections.json"} <= files.keys()
        (tmp_path / "heat.nii.gz").write_bytes(api.client.get(files["heatmap.nii.gz"]).content)
        (tmp_path / "scan.nii.gz").write_bytes(api.client.get(files["scan.nii.gz"]).content)
        heat, scan = (nibabel.Nifti1Image.from_filename(tmp_path / name) for name in ("heat.nii.gz", "scan.nii.gz"))
        assert np.allclose(heat.affine, scan.affine, atol=1e-3)
        number = api.submit(nifti(), config=CONFIG).json()["job_id"]
        assert api.work().state == "failed"
        assert "needs a DICOM series" in api.client.get(f"{JOBS}/{number}").json()["error"]["detail"]
