"""DICOM series come in with their geometry and units, and what is wrong with them has a name."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from common.data.geometry import to_ras
from common.errors import MedpairError
from common.io.dicom import choose_series, find_series, read_series, series_geometry
from tests.common.io.dicom_samples import PLANTED, write_multi_frame, write_series

SHAPE = (7, 6, 5)
OBLIQUE = np.array(
    [[-1.9, 0.2, 0.4, 70.0], [0.25, 1.4, 0.1, -80.0], [0.3, -0.1, 3.0, -60.0], [0, 0, 0, 1.0]]
)


def volume() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(-500, 1000, SHAPE) * 2).astype(np.float32)


def straight(affine: np.ndarray) -> np.ndarray:
    """The nearest affine with perpendicular axes, as scanners have."""
    u, _, v = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    out = affine.copy()
    out[:3, :3] = (u @ v) * np.linalg.norm(affine[:3, :3], axis=0)
    return out


def read(folder: Path, wanted: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    series = choose_series(folder, find_series(folder), wanted)
    array, affine, _ = read_series(series)
    shape, from_headers = series_geometry(series)
    assert shape == array.shape
    np.testing.assert_allclose(from_headers, affine)
    return array, affine


def orientations() -> list[np.ndarray]:
    """All 48 ways in which axes run, with three different voxel sizes."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            affine = np.zeros((4, 4))
            for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
                affine[row, column] = sign * (0.7, 1.1, 2.5)[column]
            affine[:, 3] = [11.0, -7.0, 5.0, 1.0]
            found.append(affine)
    return found


@pytest.mark.parametrize("affine", [*orientations(), straight(OBLIQUE)])
def test_voxels_lie_where_they_lay(affine: np.ndarray, tmp_path: Path) -> None:
    array = volume()
    write_series(tmp_path, array, affine)
    found, where = read(tmp_path)
    # slices are stacked along the normal, which may turn the last axis round
    wanted, wanted_affine = to_ras(array, affine)
    in_ras, affine_ras = to_ras(found, where)
    assert np.array_equal(in_ras, wanted)
    corners = np.array([[x, y, z, 1] for x in (0, 6) for y in (0, 5) for z in (0, 4)]).T
    assert np.abs((affine_ras - wanted_affine) @ corners).max() <= 1e-4  # mm


@pytest.mark.parametrize("affine", [straight(OBLIQUE), np.diag([-0.7, -1.1, 2.5, 1.0])])
def test_frames_of_one_file_are_a_volume_too(affine: np.ndarray, tmp_path: Path) -> None:
    array = volume()
    write_multi_frame(tmp_path / "frames.dcm", array, affine)
    found, where = read(tmp_path)
    wanted, wanted_affine = to_ras(array, affine)
    in_ras, affine_ras = to_ras(found, where)
    assert np.array_equal(in_ras, wanted)
    np.testing.assert_allclose(affine_ras, wanted_affine, atol=1e-4)


def test_one_of_several_series_is_chosen_by_uid_or_modality(tmp_path: Path) -> None:
    first, second = volume(), volume() + 2
    write_series(tmp_path / "a", first, np.eye(4), uid="1.1")
    write_series(tmp_path / "b", second, np.eye(4), uid="1.2", modality="MR")
    assert [s.modality for s in find_series(tmp_path)] == ["CT", "MR"]
    assert np.array_equal(read(tmp_path, "MR")[0], second)
    assert np.array_equal(read(tmp_path, "1.1")[0], first)
    with pytest.raises(MedpairError, match=r"2 image series fit, wanted one.*CT 1\.1 \(5 files\)"):
        read(tmp_path)
    with pytest.raises(MedpairError, match="0 image series fit PT"):
        read(tmp_path, "PT")


def remove(tag: str) -> Any:
    def change(z: int, data: Dataset) -> None:
        if z == 2:
            delattr(data, tag)

    return change


def setting(tag: str, value: Any, only: int | None = 2) -> Any:
    def change(z: int, data: Dataset) -> None:
        if only is None or z == only:
            setattr(data, tag, value)

    return change


@pytest.mark.parametrize("decimals", [3, 4, 5])
@pytest.mark.parametrize("seed", range(8))
def test_rounded_directions_are_no_tilt(seed: int, decimals: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 0.7, 2.5]

    def rounded(_: int, data: Dataset) -> None:
        values = [round(float(v), decimals) for v in data.ImageOrientationPatient]
        data.ImageOrientationPatient = values

    write_series(tmp_path, volume(), affine, rounded)
    found, where = read(tmp_path)
    assert found.shape == SHAPE
    assert np.abs(np.sort(np.linalg.norm(where[:3, :3], axis=0)) - [0.7, 0.7, 2.5]).max() < 0.01


def tilted(z: int, data: Dataset) -> None:
    data.ImagePositionPatient = [0.0, 0.3 * z, float(z)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove("ImagePositionPatient"), r"097\.dcm: no usable ImagePositionPatient"),
        (remove("ImageOrientationPatient"), "no usable ImageOrientationPatient"),
        (remove("PixelSpacing"), "no usable PixelSpacing"),
        (setting("PixelSpacing", [0.0, 1.0]), "no usable PixelSpacing"),
        (setting("PixelSpacing", [1.0, 1.5]), r"097\.dcm: PixelSpacing differs from the other 4"),
        (setting("ImagePositionPatient", [0.0, 0.0, 1.0]), "lie at the place of another"),
        (setting("ImagePositionPatient", [0.0, 0.0, 2.4]), r"mm apart, wanted 1\.000 mm"),
        (tilted, r"tilted by 16\.7 degrees \(gantry tilt\)"),
        (setting("PatientID", "another"), "holds 2 patients, wanted one"),
        (setting("RescaleSlope", 0.0), "rescale 0.0 x"),
        (setting("SamplesPerPixel", 3), "colour, wanted grey"),
        (setting("ImageOrientationPatient", [1, 0, 0, 0.5, 0.8, 0], None), "two perpendicular"),
        (setting("PhotometricInterpretation", "MONOCHROME1"), "MONOCHROME1"),
        (setting("PixelData", b"short"), r"097\.dcm: pixels in Explicit VR .* cannot be read"),
        (setting("Rows", 3), r"097\.dcm: Rows differs"),
    ],
)
def test_faults_have_a_name_and_no_patient(change: Any, says: str, tmp_path: Path) -> None:
    write_series(tmp_path, volume(), np.diag([-1.0, -1.0, 1.0, 1.0]), change)
    with pytest.raises(MedpairError, match=says) as caught:
        read_series(choose_series(tmp_path, find_series(tmp_path)))
    assert "\n" not in str(caught.value)
    assert "Planted" not in str(caught.value)
    assert PLANTED not in str(caught.value)


def test_an_empty_rescale_is_none(tmp_path: Path) -> None:
    def empty(_: int, data: Dataset) -> None:
        data.RescaleSlope = data.RescaleIntercept = None

    write_series(tmp_path, volume(), np.eye(4), empty)
    assert np.array_equal(read(tmp_path)[0], (volume() + 1000) / 2)


def test_a_missing_slice_is_found(tmp_path: Path) -> None:
    files = write_series(tmp_path, volume(), np.eye(4))
    files[2].unlink()
    with pytest.raises(MedpairError, match=r"2\.000 mm apart, wanted 1\.000 mm .*are missing"):
        read(tmp_path)


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    write_series(tmp_path, volume()[..., :1], np.eye(4))
    with pytest.raises(MedpairError, match="1 slice, wanted a volume"):
        read(tmp_path)


def test_damaged_and_foreign_files_are_listed(tmp_path: Path) -> None:
    files = write_series(tmp_path, volume(), np.eye(4))
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / "DICOMDIR").write_bytes(b"passed over")
    assert read(tmp_path)[0].shape == SHAPE
    (tmp_path / "picture.bin").write_bytes(b"no DICOM")
    with pytest.raises(MedpairError, match=r"1 files are damaged or no DICOM .*picture\.bin"):
        find_series(tmp_path)
    (tmp_path / "picture.bin").unlink()
    files[0].write_bytes(files[0].read_bytes()[:-40])
    with pytest.raises(MedpairError, match=r"099\.dcm: .*copy the file again"):
        read(tmp_path)
    files[0].write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(MedpairError, match=r"099\.dcm"):
        find_series(tmp_path)


def test_no_dicom_at_all(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="no DICOM file in it"):
        find_series(tmp_path)
    with pytest.raises(MedpairError, match="no such file or folder"):
        find_series(tmp_path / "none")


def test_a_real_series_is_what_its_nifti_is() -> None:
    root = os.environ.get("MEDPAIR_DATA")
    folder = Path(root or "") / "ct_ibsi_phantom"
    if not root or not folder.is_dir():
        pytest.skip("MEDPAIR_DATA holds no ct_ibsi_phantom")
    found, affine = read(folder / "dicom" / "image")
    wanted = nib.load(folder / "nifti" / "image" / "phantom.nii.gz")
    in_ras, affine_ras = to_ras(found, affine)
    expected, expected_affine = to_ras(np.asanyarray(wanted.dataobj), wanted.affine)
    assert np.array_equal(in_ras, expected)
    np.testing.assert_allclose(affine_ras, expected_affine, atol=1e-4)
