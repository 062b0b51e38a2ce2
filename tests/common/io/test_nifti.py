import gzip
import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.errors import MedpairError
from common.io.nifti import read_geometry, read_volume, stem, write_volume

AFFINE = np.array([[-2.0, 0.1, 0, 5], [0.1, 1.5, 0.2, -7], [0, -0.2, 3, 11], [0, 0, 0, 1]])


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, (5, 6, 7)).astype(np.float32)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    kind = nib.MGHImage if path.suffix in (".mgz", ".mgh") else nib.Nifti1Image
    nib.save(kind(array, affine), path)
    return path


def patch_header(path: Path, offset: int, form: str, *values: float) -> Path:
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mgh"])
def test_formats_agree(tmp_path: Path, array: np.ndarray, name: str) -> None:
    path = save(tmp_path / name, array)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    shape, affine = read_geometry(path)
    assert shape == array.shape
    np.testing.assert_array_equal(affine, volume.affine)
    np.testing.assert_allclose(volume.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0), rtol=1e-5)


def test_nifti2_and_header_scaling(tmp_path: Path) -> None:
    image = nib.Nifti2Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), AFFINE)
    image.header.set_slope_inter(2.0, 1.0)
    nib.save(image, tmp_path / "a.nii")
    stored = np.asanyarray(nib.load(tmp_path / "a.nii").dataobj)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, stored)


def test_written_bytes_depend_on_content_only(tmp_path: Path, array: np.ndarray) -> None:
    for name in ("a.nii.gz", "other.nii.gz"):
        write_volume(tmp_path / name, array, AFFINE)
    first, second = ((tmp_path / n).read_bytes() for n in ("a.nii.gz", "other.nii.gz"))
    assert first == second
    assert first[3] == 0
    assert first[4:8] == b"\0\0\0\0"
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_qform_and_sform_agree_on_a_rotation(tmp_path: Path, array: np.ndarray) -> None:
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]) @ np.diag([1, 2, 3])
    affine = np.eye(4)
    affine[:3, :3] = turn
    write_volume(tmp_path / "a.nii", array, affine)
    header = nib.load(tmp_path / "a.nii").header
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)


def test_other_suffixes_are_not_written(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(MedpairError, match=r"\.nii or \.nii\.gz"):
        write_volume(tmp_path / "a.mgz", array, AFFINE)
    assert not list(tmp_path.iterdir())


def test_stem() -> None:
    assert [stem(n) for n in ("x/1_T1.nii.gz", "1.5.nii", "b.MGZ", "c.txt")] == [
        "1_T1",
        "1.5",
        "b",
        "c.txt",
    ]


def refuses(path: Path, pattern: str, **options: object) -> None:
    with pytest.raises(MedpairError, match=pattern) as caught:
        read_volume(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert "wanted" in message or ";" in message


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    refuses(tmp_path / "none.nii", "no such file")
    for name, content in {
        "text.nii": b"hello" * 100,
        "empty.nii.gz": b"",
        "text.nii.gz": gzip.compress(b"hello" * 100),
        "short.nii": b"\x5c\x01\x00\x00",
        "not-mgh.nii": b"\x00\x00\x00\x01" + bytes(400),
    }.items():
        (tmp_path / name).write_bytes(content)
        refuses(tmp_path / name, "not a NIfTI")
    (tmp_path / "damaged.nii.gz").write_bytes(b"\x1f\x8b" + b"x" * 50)
    refuses(tmp_path / "damaged.nii.gz", "gzip")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mgz"])
def test_truncated(tmp_path: Path, name: str, keep: float) -> None:
    noise = np.random.default_rng(1).normal(size=(20, 20, 20)).astype(np.float32)
    path = save(tmp_path / name, noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refuses(path, "truncated|damaged")


def test_a_flipped_bit_is_found(tmp_path: Path, array: np.ndarray) -> None:
    path = save(tmp_path / "a.nii.gz", array)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # the checksum
    path.write_bytes(bytes(content))
    refuses(path, "damaged gzip")


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (1, 5, 6)])
def test_2d(tmp_path: Path, shape: tuple[int, ...]) -> None:
    refuses(save(tmp_path / "a.nii.gz", np.zeros(shape, np.float32)), "wanted 3D")


def test_5d(tmp_path: Path) -> None:
    refuses(save(tmp_path / "a.nii.gz", np.zeros((3, 3, 3, 2, 2), np.float32)), "wanted 3 or 4")
    same = save(tmp_path / "b.nii.gz", np.zeros((3, 3, 3, 1, 1), np.float32))
    assert read_volume(same).array.shape == (3, 3, 3)


def test_4d_lists_the_channels(tmp_path: Path) -> None:
    array = np.arange(81, dtype=np.float32).reshape(3, 3, 3, 3)
    path = save(tmp_path / "a.nii.gz", array)
    refuses(path, "--channel: 0, 1, 2")
    refuses(path, "no channel '7'.*0, 1, 2", channel=7)
    np.testing.assert_array_equal(read_volume(path, channel=1).array, array[..., 1])
    (tmp_path / "dataset.json").write_text(
        json.dumps({"modality": {"0": "FLAIR", "1": "T1w", "2": "T2w"}})
    )
    refuses(path, r"--channel: 0 \(FLAIR\), 1 \(T1w\), 2 \(T2w\)")
    np.testing.assert_array_equal(read_volume(path, channel="T2w").array, array[..., 2])
    np.testing.assert_array_equal(read_volume(path, channel="0").array, array[..., 0])


def test_channel_of_a_3d_file(tmp_path: Path, array: np.ndarray) -> None:
    path = save(tmp_path / "a.nii.gz", array)
    refuses(path, "has no channel 'FLAIR'", channel="FLAIR")
    assert read_volume(path, channel=0).array.shape == array.shape


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan(tmp_path: Path, array: np.ndarray, value: float) -> None:
    array[1, 2, 3] = value
    refuses(save(tmp_path / "a.nii.gz", array), "1 voxels are NaN or infinite")


def test_complex(tmp_path: Path) -> None:
    refuses(save(tmp_path / "a.nii.gz", np.zeros((3, 3, 3), np.complex64)), "wanted numbers")


@pytest.mark.parametrize("values", [(0.0, 1.0, 1.0), (1.0, -2.0, 1.0), (1.0, np.nan, 1.0)])
def test_spacing(tmp_path: Path, array: np.ndarray, values: tuple[float, ...]) -> None:
    path = patch_header(save(tmp_path / "a.nii.gz", array), 80, "3f", *values)  # pixdim[1:4]
    refuses(path, "spacing .* wanted positive")


@pytest.mark.parametrize("row", [(0.0, 0.0, 0.0, 0.0), (0.1, 1.5, 0.2, 0.0)])
def test_singular_affine(tmp_path: Path, array: np.ndarray, row: tuple[float, ...]) -> None:
    path = patch_header(save(tmp_path / "a.nii.gz", array), 280, "4f", *row)  # srow_x
    refuses(path, "singular")


@pytest.mark.parametrize(
    ("dims", "pattern"),
    [
        ((3, 32767, 32767, 32767), "wanted at most"),
        ((3, 1000, 1000, 1000), "promises"),
        ((3, -5, 6, 7), "wanted 3D"),
        ((4, 5, 6, 7, -3), "damaged|unreadable"),
    ],
)
def test_absurd_sizes(
    tmp_path: Path, array: np.ndarray, dims: tuple[int, ...], pattern: str
) -> None:
    path = patch_header(save(tmp_path / "a.nii.gz", array), 40, f"{len(dims)}h", *dims)  # dim
    refuses(path, pattern)


def test_an_unknown_data_type(tmp_path: Path, array: np.ndarray) -> None:
    refuses(patch_header(save(tmp_path / "a.nii.gz", array), 70, "h", 999), "unreadable")


def test_a_header_without_orientation_is_reported(tmp_path: Path, array: np.ndarray) -> None:
    path = patch_header(save(tmp_path / "a.nii.gz", array), 252, "2h", 0, 0)  # q- and sform_code
    assert "no orientation" in read_volume(path).warnings[0]
