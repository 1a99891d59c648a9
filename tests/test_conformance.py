"""docs/conformance.md lists what the code reads, writes and answers: no more, and no less."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts

from src.data.headers import CT_CLASSES
from src.dicom_io.export import export_objects
from src.exports import EXPORTS
from src.pacs import receiver
from src.pacs.settings import Listen
from tests.dicom_files import write_series
from tests.test_dicom_objects import PLACES, affine_of, header, scan_with


def _section(root: Path, title: str) -> str:
    text = (root / "docs" / "conformance.md").read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {title}\n")
    assert found, title
    return rest.partition("\n## ")[0]


def _listed(root: Path, title: str) -> dict[str, str]:
    """UID to name, as a table of the page has them."""
    rows = re.findall(r"^\| ([^|]+?) \| (1\.2\.840[\d.]+) \|", _section(root, title), re.MULTILINE)
    return {uid: name for name, uid in rows}


def test_the_listed_sop_classes_are_read(root: Path) -> None:
    listed = _listed(root, "Objects that are read as a scan")
    assert listed == {str(uid): UID(uid).name for uid in CT_CLASSES}


def test_the_listed_transfer_syntaxes_are_read(root: Path) -> None:
    known = [uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"]
    decoded = {uid for uid in known if _is_decoded(UID(uid))}
    assert _listed(root, "Transfer syntaxes that are read").keys() == decoded


def _is_decoded(uid: UID) -> bool:
    try:
        return get_decoder(uid).is_available
    except NotImplementedError:
        return False


@pytest.mark.filterwarnings("ignore")  # of highdicom
def test_the_listed_sop_classes_are_written(root: Path, tmp_path: Path) -> None:
    scan, results = scan_with(PLACES["1 nodule"], affine_of("axial"))
    series = write_series(tmp_path / "series", scan.array, scan.affine, edit=header)
    pdf = tmp_path / "report.pdf"
    pdf.write_bytes(b"%PDF-1.4\n%%EOF\n")
    (tmp_path / "out").mkdir()
    picture = np.zeros((8, 8, 3), np.uint8)

    paths = export_objects(series, results, tmp_path / "out", pdf, [picture], asked=list(EXPORTS))

    objects = [pydicom.dcmread(path) for path in paths]
    written = {str(one.SOPClassUID): UID(one.SOPClassUID).name for one in objects}
    assert _listed(root, "Objects that are written") == written
    assert {one.file_meta.TransferSyntaxUID for one in objects} == {"1.2.840.10008.1.2.1"}


def test_the_listener_accepts_the_listed_classes_and_answers_with_the_listed_statuses(root: Path) -> None:
    section = _section(root, "Association: the listener")
    statuses = {receiver.SUCCESS, receiver.OUT_OF_RESOURCES, receiver.CANNOT_UNDERSTAND}
    assert {int(status, 16) for status in re.findall(r"^\| ([0-9A-F]{4}) \|", section, re.MULTILINE)} == statuses
    assert f"({len(AllStoragePresentationContexts)} in version" in section
    assert f"`listen.max_associations`, {Listen().max_associations} " in section
    assert f"`listen.max_pdu_kb`, {Listen().max_pdu_kb} KiB" in section
    assert not [uid for uid in receiver.TRANSFER_SYNTAXES if "Deflate" in UID(uid).name]
