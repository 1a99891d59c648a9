"""De-identification by the Basic Application Level Confidentiality Profile of DICOM PS3.15, table E.1-1 (2026c).

The table and the dummy values are those of dicom-anonymizer. Where the profile leaves a choice, dates and times are
removed, removable sequences are emptied, and UIDs and the patient's ID become hashes under a secret key. With the same
key, instances still refer to each other, series stay together, and so do the scans of one patient.

Pixels are not changed. So only CT images are kept. Images that declare burned-in text are refused, and derived images,
which may contain text, get a warning.
"""

import glob
import hashlib
import hmac
import logging
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from dicomanonymizer.simpledicomanonymizer import replace_element
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from ..data.archive import unpacked
from ..data.dicom import holds_dicom
from ..data.headers import is_ct_image, is_dicom, open_dicom
from ..data.loader import dicom_slices, scan_name
from ..errors import BadConfig, BadScan
from ..quiet import quiet_libraries

__all__ = ["deidentified", "deidentify", "load_key", "may_show_text", "pseudonym"]

log = logging.getLogger("pivot")
TABLE = dicom_anonymization_database_selector("dicomfields_2026c")
ACTIONS = {tag: name for name, tags in TABLE.items() if name != "ALL_TAGS" for tag in tags if len(tag) == 2}
REPEATED = [tag for tag in TABLE["X_TAGS"] if len(tag) > 2]  # curves and overlays: group, element, and their masks
DATES = ("DA", "DT", "TM")
KEY_BYTES = 32
METHOD = "PIVOT: PS3.15 Basic Profile 2026c"


def load_key(path: Path | None) -> bytes:
    """The secret key of the pseudonyms, from the file, which is created if missing; without a path, a random key.

    Raises:
        BadConfig: the file cannot be read or created, or holds less than 16 bytes.
    """
    if path is None:
        return secrets.token_bytes(KEY_BYTES)
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        msg = f"cannot read or make the key for pseudonyms {path}: {error.strerror}"
        raise BadConfig(msg) from None
    if len(key) < KEY_BYTES // 2:
        msg = f"the key for pseudonyms {path} is shorter than {KEY_BYTES // 2} bytes: remove it, a new one is made"
        raise BadConfig(msg)
    return key


def pseudonym(key: bytes, text: str) -> str:
    """A pseudonym of sixteen hexadecimal digits for a name or an ID."""
    return _digest(key, text).hex()[:16]


@quiet_libraries()
def deidentify(dataset: Dataset, key: bytes) -> None:
    """Apply the profile to a CT image, in place.

    Raises:
        BadScan: it is no CT image, or has text burned in.
    """
    if not is_ct_image(dataset):
        msg = "only CT images can be de-identified: others may show or tell who the patient is"
        raise BadScan(msg)
    if dataset.get("BurnedInAnnotation") == "YES":
        msg = "has text burned into the image, which cannot be de-identified: leave it out"
        raise BadScan(msg)
    patient = pseudonym(key, str(dataset.get("PatientID") or dataset.StudyInstanceUID))
    _clean(dataset, key)
    dataset.PatientID = dataset.PatientName = patient
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.DeidentificationMethod = METHOD
    dataset.DeidentificationMethodCodeSequence = Sequence([_profile()])
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    dataset.file_meta, dataset.preamble = meta, None


def may_show_text(dataset: Dataset) -> bool:
    """Whether an image is derived, and does not declare that it is free of burned-in text."""
    image_type = dataset.get("ImageType") or []
    return "ORIGINAL" not in image_type and dataset.get("BurnedInAnnotation") != "NO"


@contextmanager
def deidentified(path: str | Path, key: bytes) -> Iterator[Path]:
    """A temporary copy of the scan at `path` without data that identifies the patient, under a pseudonym.

    For DICOM (a folder, a file or a zip), it copies the series that `read_scan` would read. From other formats only
    voxels and geometry are read, but their name may identify the patient: the copy is a link with another name.

    Raises:
        BadScan: the scan cannot be read, or has text burned in; errors on the copy name `path`.
    """
    path = Path(path)
    with quiet_libraries(), TemporaryDirectory(prefix="pivot-") as folder:
        copy = Path(folder, f"scan-{pseudonym(key, scan_name(path))}")
        try:
            if _holds_dicom(path):
                _copy_series(path, copy, key)
            else:
                copy = _link(path, copy)
            yield copy
        except BadScan as error:
            raise BadScan(str(error).replace(str(copy), str(path))) from error.__cause__


def _clean(dataset: Dataset, key: bytes) -> None:
    dataset.remove_private_tags()
    for element in list(dataset):
        action = _action(element)
        if action:
            _act(dataset, element, action, key)
        elif element.VR == "SQ":
            for item in element.value:
                _clean(item, key)


def _action(element: DataElement) -> str | None:
    """The table's action for an attribute."""
    group, number = element.tag.group, element.tag.element
    if any(group & groups == first and number & numbers == last for first, last, groups, numbers in REPEATED):
        return "X_TAGS"
    return ACTIONS.get((group, number))


def _act(dataset: Dataset, element: DataElement, action: str, key: bytes) -> None:
    """Apply an action: U new UID, X remove, Z empty, D dummy value; X/Z, X/D and Z/D as described in the module."""
    match action, element.VR:
        case ("X_TAGS", _) | ("X_D_TAGS", "DA" | "DT" | "TM" | "SQ"):
            del dataset[element.tag]
        case _, "UI":
            _replace_uids(element, key)
        case "X_Z_U_STAR_TAGS", "SQ":
            for item in element.value:
                _clean(item, key)
        case _, "SQ":
            element.value = Sequence()
        case ("D_TAGS", _):
            replace_element(element)
        case (("Z_D_TAGS" | "X_D_TAGS" | "X_Z_D_TAGS"), vr) if vr not in DATES:
            replace_element(element)
        case _:
            element.value = None


def _replace_uids(element: DataElement, key: bytes) -> None:
    if not element.value:
        return
    if element.VM > 1:
        element.value = [_uid(key, str(uid)) for uid in element.value]
    else:
        element.value = _uid(key, str(element.value))


def _uid(key: bytes, uid: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that cannot be traced back without the key."""
    return f"2.25.{uuid.UUID(bytes=_digest(key, uid)[:16], version=4).int}"


def _digest(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _profile() -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    return code


def _holds_dicom(path: Path) -> bool:
    if path.suffix.lower() != ".zip":
        return path.is_dir() or (path.is_file() and is_dicom(path))
    try:
        with unpacked(path) as folder:
            return holds_dicom(folder)
    except (BadScan, OSError):
        return False  # the reader reports it


def _copy_series(path: Path, folder: Path, key: bytes) -> None:
    folder.mkdir()
    with dicom_slices(path) as stack:
        for number, file in enumerate(dict.fromkeys(one.path for one in stack.slices), start=1):
            dataset = open_dicom(file)
            if number == 1 and may_show_text(dataset):
                log.warning("%s: its images are derived, and may show text that names the patient", path)
            deidentify(dataset, key)
            dataset.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def _link(path: Path, copy: Path) -> Path:
    """A link to a file under another name, beside links to files that it may refer to, as MHD does."""
    if path.suffix.lower() == ".mhd":
        for other in path.parent.glob(f"{glob.escape(path.stem)}.*"):
            (copy.parent / other.name).symlink_to(other.resolve())
    name = copy.with_name(copy.name + path.name.removeprefix(scan_name(path)))
    name.symlink_to(path.resolve())
    return name
