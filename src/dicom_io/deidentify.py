"""De-identification by the Basic Application Level Confidentiality Profile of DICOM PS3.15, table E.1-1 (2026c).

The table, and the dummy values, are those of dicom-anonymizer. Of the choices that it leaves open, dates and times
go, sequences that may go are emptied, and UIDs and the patient's ID become hashes under a secret key: the same for
the same key, so that instances still refer to each other, series stay together, and scans of one patient too.

Pixels stay as they are. So only CT images are kept, none that says it has text burned in, and derived ones, which may
have, get a warning.
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
    """The secret that pseudonyms depend on: of the file, which is made when it is missing; without one, a random one.

    Raises:
        BadConfig: the file cannot be read or made, or holds less than 16 bytes.
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
    """Sixteen hexadecimal digits in place of a name or an ID."""
    return _digest(key, text).hex()[:16]


@quiet_libraries()
def deidentify(dataset: Dataset, key: bytes) -> None:
    """Take everything from a CT image that the profile asks for, in place.

    Raises:
        BadScan: no CT image, or one with text burned in.
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
    """Whether an image is not straight from the scanner, nor says that no text is burned in."""
    image_type = dataset.get("ImageType") or []
    return "ORIGINAL" not in image_type and dataset.get("BurnedInAnnotation") != "NO"


@contextmanager
def deidentified(path: str | Path, key: bytes) -> Iterator[Path]:
    """A temporary copy of the scan at `path` without what tells who the patient is, under a pseudonym.

    Of DICOM (a folder, a file or a zip), the series that `read_scan` would read is copied. Of other files nothing but
    voxels and geometry is ever read, but their name may tell: there the copy is a link of another name.

    Raises:
        BadScan: the scan cannot be read, or has text burned in; what fails on the copy is reported for `path`.
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
    """The action that the table names for an attribute."""
    group, number = element.tag.group, element.tag.element
    if any(group & groups == first and number & numbers == last for first, last, groups, numbers in REPEATED):
        return "X_TAGS"
    return ACTIONS.get((group, number))


def _act(dataset: Dataset, element: DataElement, action: str, key: bytes) -> None:
    """Do what the table asks for: U a new UID, X remove, Z empty, D a dummy, and X/Z, X/D, Z/D as said above."""
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
    """A UID under 2.25 (PS3.5 B.2), which nobody can trace back without the key."""
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
        return False  # which reading will tell


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
    """Another name for a file, beside links to those that it may refer to by name, as MHD does."""
    if path.suffix.lower() == ".mhd":
        for other in path.parent.glob(f"{glob.escape(path.stem)}.*"):
            (copy.parent / other.name).symlink_to(other.resolve())
    name = copy.with_name(copy.name + path.name.removeprefix(scan_name(path)))
    name.symlink_to(path.resolve())
    return name
