"""Files appear whole or not at all."""

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
    for write in (lambda: whole_file(tmp_path / "a"), lambda: whole_files(tmp_path, last="a")):
        with pytest.raises(ZeroDivisionError), write() as partial:
            (partial / "a" if partial.is_dir() else partial).write_text("new")
            raise ZeroDivisionError
        assert content(tmp_path) == {"a": "old"}


def test_files_appear_together_and_the_last_one_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: order.append(target.name) or replace(self, target))
    with whole_files(tmp_path, last="b") as draft:
        for name in "abc":
            (draft / name).write_text(name)
        assert [file.name for file in tmp_path.iterdir()] == [draft.name]
        assert draft.name.startswith(".")
    assert order == ["a", "c", "b"] or order == ["c", "a", "b"]
    assert content(tmp_path) == {name: name for name in "abc"}


def test_where_one_file_cannot_be_placed_none_is(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").write_text("an older run's")
    with pytest.raises(BadOutput, match=f"cannot write {tmp_path}: "), whole_files(tmp_path, last="c") as draft:
        for name in "abc":
            (draft / name).write_text(name)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("make", [whole_file, writable_folder, lambda path: whole_files(path, last="a")])
def test_a_place_below_a_file_is_refused(tmp_path: Path, make) -> None:  # noqa: ANN001
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match=r"cannot write .*file/x"), make(tmp_path / "file" / "x"):
        pass


def test_a_writable_folder_is_made_and_stays_empty(tmp_path: Path) -> None:
    assert list(writable_folder(tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match="it is a file, give a folder"):
        writable_folder(tmp_path / "file")
