"""Answers of a DICOMweb server are read within bounds, over a real connection."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from src.data import part10
from src.errors import PivotError
from src.pacs import answers
from src.pacs.settings import SeriesRules
from src.pacs.web import pull_study
from tests.pacs import series_of
from tests.test_pacs_hostile import encoded

RULES = SeriesRules(slices=(4, 500))
STUDY = "1.2.3.4"
JSON, PARTS = "application/dicom+json", 'multipart/related; type="application/dicom"; boundary=B'


class Answer(NamedTuple):
    """An answer, sent in pieces so that it may be endless; `encoding` is its Content-Encoding."""

    pieces: Iterator[bytes]
    kind: str = JSON
    encoding: str = ""


@contextmanager
def server(slices: list[Dataset], changed: Callable[[str], Answer | None] = lambda _: None) -> Iterator[str]:
    """The address of a DICOMweb server with one series; `changed` may replace the answer for a path."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].rsplit("/", 1)[-1]
            answer = changed(path) or ordinary(path, slices)
            if "offset=" in self.path and "offset=0" not in self.path:
                answer = Answer(iter([b"[]"]))
            self.send_response(200)
            self.send_header("Content-Type", answer.kind)
            if answer.encoding:
                self.send_header("Content-Encoding", answer.encoding)
            self.end_headers()
            try:
                for piece in answer.pieces:
                    self.wfile.write(piece)
            except OSError:  # the client closed the connection
                pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}/dicom-web"
    finally:
        serving.shutdown()
        serving.server_close()


def ordinary(path: str, slices: list[Dataset]) -> Answer:
    """The answer of a correct server."""
    if path == "series":
        said: list[dict[str, Any]] = [
            {
                "0020000E": {"vr": "UI", "Value": [slices[0].SeriesInstanceUID]},
                "00080060": {"vr": "CS", "Value": ["CT"]},
            }
        ]
    elif path == "instances":
        said = [{"00080018": {"vr": "UI", "Value": [one.SOPInstanceUID]}} for one in slices]
    elif path == "metadata":
        header = Dataset()
        header.update({element.tag: element for element in slices[0] if element.tag.group != 0x7FE0})
        said = [header.to_json_dict()]
    else:
        return Answer(parts([encoded(one) for one in slices]), PARTS)
    return Answer(iter([json.dumps(said).encode()]))


def parts(files: list[bytes]) -> Iterator[bytes]:
    for file in files:
        yield b"--B\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n"
    yield b"--B--\r\n"


def endless(start: bytes) -> Iterator[bytes]:
    yield start
    while True:
        yield bytes(2**20)


def deflated(one: Dataset) -> Dataset:
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return one


@pytest.mark.parametrize("edit", [None, deflated])
def test_a_series_arrives_as_it_is_stored(tmp_path: Path, edit: Callable[[Dataset], Dataset] | None) -> None:
    slices = series_of(study=STUDY, edit=edit)
    with server(slices) as url:
        folder = pull_study(url, STUDY, tmp_path, rules=RULES)
    files = [dcmread(path) for path in sorted(folder.iterdir())]
    assert [file.PixelData for file in files] == [one.PixelData for one in slices]
    assert {file.file_meta.TransferSyntaxUID for file in files} == {slices[0].file_meta.TransferSyntaxUID}


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("series", lambda: Answer(endless(b'["'))),
        ("instances", lambda: Answer(endless(b'["'))),
        ("metadata", lambda: Answer(endless(b'["'))),
        ("series", lambda: Answer(iter([gzip.compress(bytes(2**24))]), encoding="gzip")),
        ("pixels", lambda: Answer(endless(b"--B\r\nContent-Type: application/dicom\r\n\r\n"), PARTS)),
        ("pixels", lambda: Answer(endless(b""), "application/dicom")),
        ("pixels", lambda: Answer(iter([gzip.compress(b"--B\r\n" + bytes(2**24))]), PARTS, "gzip")),
    ],
)
def test_no_answer_is_read_beyond_its_maximum_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, answer: Callable[[], Answer]
) -> None:
    monkeypatch.setattr(answers, "MOST_JSON", 2**22)
    monkeypatch.setattr(answers, "MOST_INSTANCE", 2**22)
    slices = series_of(study=STUDY)
    known = {"series", "instances", "metadata"}
    with (
        server(
            slices, lambda path: answer() if path == asked or (asked == "pixels" and path not in known) else None
        ) as url,
        pytest.raises(PivotError, match="it sends more than 4 MiB"),
    ):
        pull_study(url, STUDY, tmp_path / "pulled", rules=RULES)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_bound_applies_to_each_instance_and_not_to_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = series_of(study=STUDY)
    size = len(encoded(slices[0]))
    monkeypatch.setattr(answers, "MOST_INSTANCE", 4 * size)
    monkeypatch.setattr(answers, "PIECE", size)
    with server(slices) as url:
        assert len(list(pull_study(url, STUDY, tmp_path, rules=RULES).iterdir())) == len(slices) > 4


def test_an_instance_that_inflates_beyond_its_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "HEADER", 2**16)
    slices = series_of(study=STUDY, edit=deflated)
    slices[0].add_new(0x00091010, "OB", bytes(2**21))
    with server(slices) as url, pytest.raises(PivotError, match="inflates to more than"):
        pull_study(url, STUDY, tmp_path, rules=RULES)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        ("series", b"[" * 100_000),
        ("series", b"5"),
        ("series", b"[5]"),
        ("series", b'[{"0020000E": 5}]'),
        ("instances", b"[]"),
        ("instances", b"[[]]"),
        ("metadata", b"[]"),
        ("metadata", b'[{"00280010": {"vr": "US", "Value": ["x"]}}]'),
    ],
)
def test_an_unexpected_answer_gives_a_one_sentence_error(tmp_path: Path, asked: str, body: bytes) -> None:
    slices = series_of(study=STUDY)
    changed = server(slices, lambda path: Answer(iter([body])) if path == asked else None)
    with changed as url, pytest.raises(PivotError) as caught:
        pull_study(url, STUDY, tmp_path, rules=RULES)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
