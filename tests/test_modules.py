"""What holds for every module of the package."""

from pathlib import Path

MOST_LINES = 300


def test_no_module_is_too_long_to_be_read_at_once(root: Path) -> None:
    lines = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in root.glob("src/**/*.py")
    }
    assert len(lines) > 100
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}
