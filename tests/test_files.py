"""Files are written completely or not at all."""

import shutil
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from src.errors import BadOutput
from src.files import whole_file, whole_files, writable_folder


def content(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.nii.gz"
    with whole_file(path) as partial:
        partial.write_text("text")
        assert partial.name.endswith(".nii.gz")
        assert not path.exists()
    assert content(path.parent) == {"a.nii.gz": "text"}


def test_two_writers_of_one_file_each_write_it_completely(tmp_path: Path) -> None:
    with ExitStack() as slow:
        one = slow.enter_context(whole_file(tmp_path / "a"))
        one.write_text("one")
        with whole_file(tmp_path / "a") as other:
            other.write_text("other")
        assert (tmp_path / "a").read_text() == "other"
        assert one.read_text() == "one"
    assert content(tmp_path) == {"a": "one"}


@pytest.mark.parametrize("present", [True, False])
def test_an_installed_package_uses_its_own_files(tmp_path: Path, root: Path, *, present: bool) -> None:
    """Another installed project's `checkpoints/` may lie beside the package."""
    package, foreign = tmp_path / "pivot", tmp_path / "checkpoints" / "best_model.pth"
    package.mkdir()
    for name in ("__init__.py", "errors.py", "files.py"):
        shutil.copy(root / "src" / name, package)
    own = package / "checkpoints" / "best_model.pth"
    for path in (foreign, *([own] if present else [])):
        path.parent.mkdir()
        path.touch()
    command = "from pivot.files import shipped; print(shipped('checkpoints/best_model.pth'))"
    done = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == own


def test_a_failure_leaves_the_earlier_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with suppress(ZeroDivisionError), whole_file(tmp_path / "a") as partial:
        partial.write_text(f"new {1 / 0}")
    with suppress(ZeroDivisionError), whole_files(tmp_path, last="a") as draft:
        (draft / "a").write_text("new")
        (draft / "b").write_text(f"new {1 / 0}")
    assert content(tmp_path) == {"a": "old"}


def test_the_last_file_appears_after_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_no_file_is_written_if_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").write_text("an older run's")
    with pytest.raises(BadOutput, match="cannot write "), whole_files(tmp_path, last="c") as draft:  # noqa: PT012
        for name in "abc":
            (draft / name).write_text(name)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "x"
    with pytest.raises(BadOutput, match=r"cannot write .*file/x: Not a directory"):
        writable_folder(below)
    for write in (whole_file(below), whole_files(below, last="a")):
        with pytest.raises(BadOutput, match=r"cannot write .*file/x: "), write:
            pass


def test_a_writable_folder_is_created_and_stays_empty(tmp_path: Path) -> None:
    assert list(writable_folder(tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match="it is a file, give a folder"):
        writable_folder(tmp_path / "file")
