"""One scan in many encodings reads the same; a damaged one is refused or noted."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from benchmarks.mutations import WAYS, differs, mutations
from src.data.geometry import map_points
from src.data.loader import read_scan
from src.errors import BadScan
from src.types import Affine

from .dicom_files import AFFINE, CHEST, nifti
from .scan_writers import DATA, SPACES, metaimage, nrrd

Way = Callable[[Path, Affine], Path]

CORNERS = np.array(list(product(*[(0, n - 1) for n in CHEST.shape])))
CODES = (0, 1, 2, 4)


def ways() -> Iterator[tuple[str, Way]]:
    """Volume files of one scan, with every pair of qform and sform codes except 0 and 0, which give no position."""
    for sform, qform, suffix in product(CODES, CODES, (".nii", ".nii.gz")):
        if sform or qform:
            yield (
                f"sform {sform}, qform {qform}, {suffix}",
                lambda folder, affine, s=sform, q=qform, x=suffix: nifti(  # type: ignore[misc]
                    folder / f"a{x}", CHEST, affine, sform_code=s, qform_code=q
                ),
            )
    for data, packing in product(DATA, ("raw", "zlib")):
        yield (
            f"MetaImage {data} {packing}",
            lambda folder, affine, d=data, p=packing: metaimage(folder, CHEST, affine, data=d, packing=p),  # type: ignore[misc]
        )
    for space, packing in product(SPACES, ("raw", "gzip", "bzip2")):
        yield (
            f"NRRD {space} {packing}",
            lambda folder, affine, s=space, p=packing: nrrd(folder, CHEST, affine, space=s, packing=p),  # type: ignore[misc]
        )


angles, lengths = st.floats(-180, 180), st.floats(1.8, 4.0)


@given(
    turn=st.tuples(angles, angles, angles),
    spacing=st.tuples(lengths, lengths, lengths),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    mirrored=st.booleans(),
)
@settings(max_examples=6)
def test_every_encoding_of_a_scan_has_the_same_voxels_at_the_same_points(
    turn: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...], *, mirrored: bool
) -> None:
    rotation = Rotation.from_euler("xyz", turn, degrees=True)
    # A qform omits the quaternion's real part; near half a turn, three 32-bit numbers do not determine it.
    assume(not 1e-7 < abs(rotation.as_quat()[3]) < 0.005)
    affine = np.eye(4)
    affine[:3, :3] = rotation.as_matrix() * spacing * (1, 1, -1 if mirrored else 1)
    affine[:3, 3] = origin
    for name, write in ways():
        with tempfile.TemporaryDirectory() as folder:
            scan = read_scan(write(Path(folder), affine))
        np.testing.assert_array_equal(scan.array, CHEST, err_msg=name)
        np.testing.assert_allclose(
            map_points(scan.affine, CORNERS), map_points(affine, CORNERS), atol=0.01, err_msg=name
        )
        assert scan.notes == (), name


def moved(millimetres: float) -> Affine:
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def scaled(factor: float) -> Affine:
    return np.asarray(AFFINE @ np.diag([1, factor, 1, 1]))


def mirrored() -> Affine:
    return np.asarray(np.diag([-1.0, 1, 1, 1]) @ AFFINE)


def rows(affine: Affine) -> dict[str, object]:
    return {f"srow_{axis}": row for axis, row in zip("xyz", affine[:3], strict=True)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (rows(mirrored()), "states two places"),
        ({**rows(mirrored()), "sform_code": 2}, "states two places"),
        (rows(moved(0.6)), "states two places, 0.6 mm apart"),
        (rows(scaled(1.05)), "states two places"),
        ({**rows(scaled(1.05)), "qform_code": 0}, "states voxels of 1.5 x 2.1 x 2.5 mm in its sform and of 1.5 x 2 x"),
        ({**rows(np.diag([-1.0, -1, 1, 1])), "qform_code": 0}, "states voxels of 1 x 1 x 1 mm in its sform"),
        ({"pixdim": [-1, 1.5, 2, 2.5, 1, 1, 1, 1]}, "states two places"),
        ({"pixdim": [0.3, 1.5, 2, 2.5, 1, 1, 1, 1], "sform_code": 0}, "a qform that is no rotation (pixdim[0] 0.3"),
        ({"quatern_b": 1.1, "sform_code": 0}, "a qform that is no rotation (pixdim[0] 1, quatern_b 1.1"),
        ({"quatern_c": np.nan, "sform_code": 0}, "quatern_c nan"),
        ({"qoffset_y": np.nan, "sform_code": 0}, "qoffset_y nan"),
        ({"bitpix": 8}, "states datatype int16 and 8 bits"),
        ({"datatype": 99}, "states an unknown datatype, 99"),
        ({"vox_offset": 300}, "states that its voxels begin at byte 300"),
        ({"magic": b"ni1"}, "keeps its voxels in another file"),
        ({"magic": b"abc"}, "does not say so"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "states scl_slope 1 and scl_inter nan"),
    ],
)
def test_a_nifti_header_that_contradicts_itself_is_refused_with_both_statements(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadScan) as error:
        read_scan(nifti(tmp_path / "a.nii.gz", **fields))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        (rows(moved(0.4)), None),
        ({"pixdim": [0, 1.5, 2, 2.5, 1, 1, 1, 1], "sform_code": 0}, None),
        ({"quatern_b": 1.0002, "quatern_c": 0, "quatern_d": 0, "sform_code": 0}, None),
        ({"vox_offset": 0}, "does not say where its voxels begin"),
        ({"quatern_b": 3}, "the qform is not usable"),
        ({"scl_slope": np.nan}, None),
    ],
)
def test_a_nifti_header_with_a_harmless_contradiction_is_read(
    tmp_path: Path, fields: dict[str, Any], note: str | None
) -> None:
    scan = read_scan(nifti(tmp_path / "a.nii", **fields))
    np.testing.assert_array_equal(scan.array, CHEST)
    assert [note in told for told in scan.notes] == ([True] if note else []) if note else scan.notes == ()


ASSUMED = "right and left are assumed"


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda folder: metaimage(folder, without=("Offset",)), "states no origin"),
        (lambda folder: metaimage(folder, without=("TransformMatrix",)), ASSUMED),
        (lambda folder: nrrd(folder, without=("space origin",)), "states no origin"),
        (lambda folder: nrrd(folder, without=("space",)), ASSUMED),
        (lambda folder: nrrd(folder, without=("space directions",), spacings="1.5 2 2.5"), ASSUMED),
        (lambda folder: nrrd(folder, space="3D-right-handed"), ASSUMED),
    ],
)
def test_a_position_missing_from_the_header_is_noted(tmp_path: Path, make: Callable[[Path], Path], note: str) -> None:
    scan = read_scan(make(tmp_path))
    np.testing.assert_allclose(scan.spacing, (1.5, 2, 2.5))
    assert [note in told for told in scan.notes] == [True]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda folder: metaimage(folder, Offset="nan 0 0"),
            "states its origin (Offset or space origin) as (nan, 0, 0)",
        ),
        (lambda folder: metaimage(folder, ElementSpacing="-1.5 2 2.5"), "states ElementSpacing as '-1.5 2 2.5'"),
        (lambda folder: metaimage(folder, TransformMatrix="2 0 0 0 1 0 0 0 1"), "directions of length 2 x 1 x 1"),
        (lambda folder: metaimage(folder, AnatomicalOrientation="LAI"), "right and left may be swapped"),
        (lambda folder: metaimage(folder, DistanceUnits="inch"), "states lengths in 'inch'"),
        (
            lambda folder: nrrd(folder, space_origin="(nan,0,0)"),
            "states its origin (Offset or space origin) as (nan, 0, 0)",
        ),
        (lambda folder: nrrd(folder, space_origin="(1,2)"), "2 numbers in space origin"),
        (lambda folder: nrrd(folder, spacings="1.5 2.2 2.5"), "states spacings of 1.5 x 2.2 x 2.5"),
        (lambda folder: nrrd(folder, space="right-up-ward"), "states space as 'right-up-ward'"),
    ],
)
def test_a_text_header_that_misplaces_its_volume_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(BadScan) as error:
        read_scan(make(tmp_path))
    assert words in str(error.value)


@pytest.mark.parametrize("letters", ["RAI", "LPS", "???"])
def test_an_orientation_in_either_convention_is_accepted(tmp_path: Path, letters: str) -> None:
    assert read_scan(metaimage(tmp_path, AnatomicalOrientation=letters)).notes == ()


def test_centimetres_are_converted_to_millimetres(tmp_path: Path) -> None:
    spacing, origin = np.array([1.5, 2, 2.5]) / 10, np.array([-30, -35, -120]) / 10
    words = [" ".join(map(str, values)) for values in (spacing, origin)]
    scan = read_scan(metaimage(tmp_path, DistanceUnits="cm", ElementSpacing=words[0], Offset=words[1]))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-9)


@pytest.mark.parametrize("name", WAYS)
def test_no_damaged_scan_reads_differently_without_a_note(name: str, tmp_path: Path) -> None:
    for seed, path in mutations(name, tmp_path, range(25)):
        assert not differs(path), f"python -m benchmarks.mutations --only '{name}' --first {seed} --count 1"
