"""Files appear whole or not at all."""

from contextlib import suppress
from pathlib import Path

import pytest

from src.errors import BadOutput
from src.files import whole_file, whole_files, writable_folder


def content(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_file_appears_at_the_end_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.nii.gz"
    with whole_file(path) as partial:
        partial.write_text("text")
        assert partial.name.endswith(".nii.gz")
        assert not path.exists()
    assert content(path.parent) == {"a.nii.gz": "text"}


def test_a_failure_leaves_the_earlier_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with suppress(ZeroDivisionError), whole_file(tmp_path / "a") as partial:
        partial.write_text(f"new {1 / 0}")
    with suppress(ZeroDivisionError), whole_files(tmp_path, last="a") as draft:
        (draft / "a").write_text("new")
        (draft / "b").write_text(f"new {1 / 0}")
    assert content(tmp_path) == {"a": "old"}


def test_files_appear_together_and_the_last_one_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = Path.replace

    def record(self: Path, target: Path) -> Path:
        order.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record)
    with whole_files(tmp_path, last="b") as draft:
        for name in "abc":
            (draft / name).write_text(name)
        assert [file.name for file in tmp_path.iterdir()] == [draft.name]
        assert draft.name.startswith(".")
    assert sorted(order[:2]) == ["a", "c"]
    assert order[2:] == ["b"]
    assert content(tmp_path) == {name: name for name in "abc"}


def test_where_one_file_cannot_be_placed_none_is(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").write_text("an older run's")
    with pytest.raises(BadOutput, match="cannot write "), whole_files(tmp_path, last="c") as draft:  # noqa: PT012
        for name in "abc":
            (draft / name).write_text(name)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "x"
    with pytest.raises(BadOutput, match=r"cannot write .*file/x: Not a directory"):
        writable_folder(below)
    for write in (whole_file(below), whole_files(below, last="a")):
        with pytest.raises(BadOutput, match=r"cannot write .*file/x: "), write:
            pass


def test_a_writable_folder_is_made_and_stays_empty(tmp_path: Path) -> None:
    assert list(writable_folder(tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match="it is a file, give a folder"):
        writable_folder(tmp_path / "file")
