"""Damages every kind of scan file in seeded ways: none is read as another scan without a note.

    python -m benchmarks.mutations [--count 500] [--first 0] [--only NAME]

A damage cuts, inserts, doubles, removes or overwrites a few bytes, anywhere a format could notice: not in place within
voxels that have no checksum, nor in the one statement of a text header's geometry, which would be another scan.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from src.data.geometry import map_points
from src.data.loader import read_scan
from src.errors import BadScan
from tests.dicom_files import AFFINE, CHEST, nifti, write
from tests.scan_writers import metaimage, nrrd

__all__ = ["WAYS", "differs", "mutations", "tell"]

# How a scan is written, and what of a file may be overwritten in place; None: nothing, since all of it is voxels.
Span = Callable[[bytes], Sequence[int]] | None
LARGEST_HU, LARGEST_MM = 1.0, 0.5
WORDS = (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"nan ", b"-1 ", b"1e99", b"../", b"\r", b"\n", b" ")


def _everything(content: bytes) -> Sequence[int]:
    return range(len(content))


def _nifti_header(_: bytes) -> Sequence[int]:
    """All that is stated twice, or that the size of the file depends on."""
    once = {*range(112, 120), *range(123, 124)}  # scl_slope, scl_inter; xyzt_units
    return [place for place in range(348) if place not in once]


def _text_header(content: bytes) -> Sequence[int]:
    """The lines of the header, but what only they say of intensities and place."""
    once = (
        b"TransformMatrix",
        b"Offset",
        b"ElementSpacing",
        b"ElementType",
        b"BinaryData",
        b"space",
        b"type",
        b"endian",
    )
    places: list[int] = []
    start = 0
    for line in content[:2000].splitlines(keepends=True):
        if not line.strip() or not line.isascii():
            break
        places += [] if line.startswith(once) else range(start, start + len(line))
        start += len(line)
    return places


WAYS: dict[str, tuple[Callable[[Path], Path], str, Span]] = {
    "nii": (lambda folder: nifti(folder / "a.nii"), "a.nii", _nifti_header),
    "nii.gz": (lambda folder: nifti(folder / "a.nii.gz"), "a.nii.gz", _everything),
    "mha": (metaimage, "a.mha", _text_header),
    "mha zlib": (lambda folder: metaimage(folder, packing="zlib"), "a.mha", _text_header),
    "mhd": (lambda folder: metaimage(folder, data="one"), "a.mhd", _text_header),
    "mhd list": (lambda folder: metaimage(folder, data="list"), "a.mhd", _text_header),
    "raw": (lambda folder: metaimage(folder, data="one"), "a.dat", None),
    "zraw": (lambda folder: metaimage(folder, data="one", packing="zlib"), "a.dat", _everything),
    "zraw in slices": (lambda folder: metaimage(folder, data="pattern", packing="zlib"), "s007.dat", _everything),
    "nrrd": (nrrd, "a.nrrd", _text_header),
    "nrrd gzip": (lambda folder: nrrd(folder, packing="gzip"), "a.nrrd", _text_header),
    "nhdr": (lambda folder: nrrd(folder, data="one"), "a.nhdr", _text_header),
    "nhdr gzip": (lambda folder: nrrd(folder, data="one", packing="gzip"), "a.dat", _everything),
    "nhdr bzip2": (lambda folder: nrrd(folder, data="one", packing="bzip2"), "a.dat", _everything),
    "zip": (lambda folder: write(folder, "b.zip"), "b.zip", _everything),
}


def mutations(name: str, folder: Path, seeds: Sequence[int]) -> Iterator[tuple[int, Path]]:
    """The scan written in that way, with one file damaged, for each seed."""
    make, file, span = WAYS[name]
    path = make(folder)
    content = (folder / file).read_bytes()
    for seed in seeds:
        (folder / file).write_bytes(_damaged(content, span(content) if span else (), random.Random(f"{name} {seed}")))  # noqa: S311
        yield seed, path


def _damaged(content: bytes, span: Sequence[int], rng: random.Random) -> bytes:
    kinds = ["cut", "insert", "double", "remove", *["flip", "word"] * 2 * bool(span)]
    kind, size = rng.choice(kinds), rng.randint(1, 60)
    place = rng.randrange(len(content)) if not span or rng.random() < 0.5 else rng.choice(span)
    match kind:
        case "cut":
            return content[:place]
        case "insert":
            return content[:place] + rng.randbytes(size) + content[place:]
        case "double":
            return content[: place + size] + content[place:]
        case "remove":
            return content[:place] + content[place + size :]
        case "flip":
            place, word = rng.choice(span), bytes([rng.randrange(256)])
        case _:
            word = rng.choice(WORDS)
            among = set(span)
            inside = [start for start in span if among.issuperset(range(start, start + len(word)))]
            place = rng.choice(inside)
    return content[:place] + word + content[place + len(word) :]


def differs(path: Path) -> str:
    """How the scan at `path`, read without a note, differs from the one that was written; nothing if it does not."""
    try:
        scan = read_scan(path)
    except BadScan:
        return ""
    if scan.notes:
        return ""
    if scan.shape != CHEST.shape:
        return f"shape {scan.shape}"
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in CHEST.shape]), -1).reshape(-1, 3)
    apart = np.linalg.norm(map_points(scan.affine, corners) - map_points(AFFINE, corners), axis=1).max()
    worst = float(np.abs(scan.array - CHEST.astype(np.float64)).max())
    return f"{worst:g} HU, {apart:.2f} mm" if worst > LARGEST_HU or apart > LARGEST_MM else ""


def main() -> int:
    """Print, for each way, how many damages were refused or harmless, and those that were neither."""
    return tell(__doc__, WAYS, mutations)


def tell(
    about: str | None, ways: Iterable[str], damaged: Callable[[str, Path, Sequence[int]], Iterator[tuple[int, Path]]]
) -> int:
    """The command line of this benchmark, for any `ways` of writing a scan and what damages one.

    The exit code is 1 where a damage was read as another scan.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=list(ways))
    given = parser.parse_args()
    bad = 0
    for name in [given.only] if given.only else ways:
        ends: Counter[str] = Counter()
        folder = Path(tempfile.mkdtemp())
        for seed, path in damaged(name, folder, range(given.first, given.first + given.count)):
            if difference := differs(path):
                print(f"  {name} {seed}: {difference}")
            ends["another scan" if difference else "refused, noted or harmless"] += 1
        shutil.rmtree(folder)
        bad += ends["another scan"]
        print(f"{name:15}", dict(ends), flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
