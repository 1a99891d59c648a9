"""Small synthetic CT volumes in every file format, and DICOM series with edits, for tests."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm  # type: ignore[import-untyped]
import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from src.data.geometry import RAS_TO_LPS
from src.types import Affine

__all__ = [
    "AFFINE",
    "CHEST",
    "FORMATS",
    "Edit",
    "change",
    "chest",
    "compress",
    "empty_folder",
    "file_dataset",
    "itk_image",
    "nifti",
    "only",
    "sheared",
    "shift",
    "slice_dataset",
    "without",
    "write",
    "write_enhanced",
    "write_series",
    "zipped",
]

AFFINE: Affine = RAS_TO_LPS @ np.array([[1.5, 0, 0, -30], [0, 2, 0, -35], [0, 0, 2.5, -120], [0, 0, 0, 1.0]])

Voxels = npt.NDArray[Any]
Edit = Callable[[Dataset], object]


def chest(shape: tuple[int, int, int] = (24, 20, 12)) -> Voxels:
    """Noise around -850 HU (lung) with a block of noise around 40 HU: (X, Y, Z) int16 in Fortran order."""
    noise = np.random.default_rng(7).integers(-60, 60, shape)
    values = noise - 850
    values[: shape[0] // 2, : shape[1] // 3] += 890
    return np.asfortranarray(values.astype(np.int16))


CHEST = chest()
FORMATS = ("a.nii", "a.nii.gz", "a.mhd", "a.mha", "a.nrrd", "dicom", "a.zip", "b.zip")


def itk_image(array: Voxels, affine: Affine = AFFINE) -> sitk.Image:
    """The same volume at the same place, as a SimpleITK image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def slice_dataset(array: Voxels, affine: Affine = AFFINE, z: int = 0, series: int = 1) -> Dataset:
    """Slice `z` of a volume in HU as a CT image, stored with an intercept of -1024."""
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    dataset = file_dataset(CTImageStorage, series)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = z + 1
    dataset.ImagePositionPatient = _decimals(lps[:3, :3] @ [0, 0, z] + lps[:3, 3])
    dataset.ImageOrientationPatient = _decimals([*directions[:, 0], *directions[:, 1]])
    dataset.PixelSpacing = _decimals([spacing[1], spacing[0]])
    dataset.SliceThickness = "99"  # differs from the distance between slices
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    _set_pixels(dataset, (array[..., z] + 1024).T)
    return dataset


def file_dataset(sop_class: str, series: int = 1, modality: str = "CT") -> Dataset:
    """A DICOM file without an image."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = f"1.2.3.{series}"
    dataset.SeriesNumber = series
    dataset.Modality = modality
    dataset.PatientName = "Secret^Name"
    dataset.PatientID = "SECRET-ID"
    return dataset


def write_series(
    folder: Path, array: Voxels, affine: Affine = AFFINE, *, series: int = 1, edit: Edit | None = None
) -> Path:
    """Write one file per slice, with names in random order; `edit` changes a slice before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    for z, name in enumerate(np.random.default_rng(3).permutation(array.shape[2])):
        dataset = slice_dataset(array, affine, z, series)
        if edit:
            edit(dataset)
        dataset.save_as(folder / f"{series}-{name:04d}.dcm", enforce_file_format=True)
    return folder


def write_enhanced(path: Path, array: Voxels, affine: Affine = AFFINE) -> Path:
    """Write all slices to one enhanced CT file, last frame first."""
    slices = [slice_dataset(array, affine, z) for z in reversed(range(array.shape[2]))]
    dataset = file_dataset(EnhancedCTImageStorage)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames = len(slices)
    _set_pixels(dataset, np.stack([one.pixel_array for one in slices]))
    dataset.SharedFunctionalGroupsSequence = Sequence(
        [
            _group(
                PixelMeasuresSequence=_copy(slices[0], "PixelSpacing"),
                PlaneOrientationSequence=_copy(slices[0], "ImageOrientationPatient"),
                PixelValueTransformationSequence=_copy(slices[0], "RescaleSlope", "RescaleIntercept"),
            )
        ]
    )
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [_group(PlanePositionSequence=_copy(one, "ImagePositionPatient")) for one in slices]
    )
    dataset.save_as(path, enforce_file_format=True)
    return path


def compress(path: Path, syntax: gdcm.TransferSyntax) -> None:
    """Rewrite a DICOM file in another transfer syntax, with GDCM."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def write(folder: Path, name: str, array: Voxels = CHEST, affine: Affine = AFFINE) -> Path:
    """Write the volume in one of `FORMATS`; `a.zip` holds a DICOM series, `b.zip` a MetaImage of two files."""
    path = folder / name
    if name == "dicom":
        return write_series(path, array, affine)
    if name.endswith(".zip"):
        content = write(folder / "content", "dicom" if name == "a.zip" else "a.mhd", array, affine)
        return zipped(path, content if content.is_dir() else content.parent)
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(itk_image(array, affine), str(path))
    return path


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in folder.iterdir():
            file.write(member, f"study/{member.name}")
    return path


def nifti(path: Path, array: Voxels = CHEST, affine: Affine = AFFINE, **header: object) -> Path:
    """Write a NIfTI file with nibabel, with the given header fields."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    content = bytearray(image.to_bytes())
    raw = nib.Nifti1Header(bytes(content[:348]), check=False)
    for field, value in header.items():
        raw[field] = value
    content[:348] = raw.binaryblock
    path.write_bytes(gzip.compress(bytes(content), 1) if path.suffix == ".gz" else bytes(content))
    return path


def empty_folder(folder: Path) -> Path:
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no scans here")
    return folder


def sheared(amount: float) -> Affine:
    shear = np.eye(4)
    shear[0, 1] = amount
    return AFFINE @ shear


def change(**values: object) -> Callable[[Dataset], None]:
    """Return an edit that sets attributes of every slice."""

    def edit(dataset: Dataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return edit


def only(where: int, edit: Callable[[Dataset], Any]) -> Callable[[Dataset], None]:
    """Return an edit that changes a single slice."""

    def edit_one(dataset: Dataset) -> None:
        if dataset.InstanceNumber == where + 1:
            edit(dataset)

    return edit_one


def without(name: str) -> Callable[[Dataset], None]:
    """Return an edit that deletes an attribute."""
    return lambda dataset: delattr(dataset, name)


def shift(axis: int, millimetres: Callable[[int], float]) -> Callable[[Dataset], None]:
    """Return an edit that moves slices along a patient axis."""

    def edit(dataset: Dataset) -> None:
        position = [float(value) for value in dataset.ImagePositionPatient]
        position[axis] += millimetres(dataset.InstanceNumber - 1)
        dataset.ImagePositionPatient = position

    return edit


def _set_pixels(dataset: Dataset, stored: Voxels) -> None:
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.PixelData = stored.astype("<i2").tobytes()


def _decimals(values: npt.ArrayLike) -> list[str]:
    return [format_number_as_ds(round(float(value), 9)) for value in np.asarray(values)]


def _group(**sequences: Dataset) -> Dataset:
    group = Dataset()
    for name, item in sequences.items():
        setattr(group, name, Sequence([item]))
    return group


def _copy(source: Dataset, *names: str) -> Dataset:
    item = Dataset()
    for name in names:
        setattr(item, name, source[name].value)
    return item
