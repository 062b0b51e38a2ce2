import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.datasets import Pair, PairSet
from common.data.export import export_files, export_pair
from common.data.intensity import intensity_of
from common.data.labels import load_schema
from common.data.phantom import write_phantom_set
from common.data.prepare import prepare
from common.errors import MedpairError
from tests.common.data.scans import ORIENTATIONS, oriented, write_scans


def there_and_back(tmp_path: Path, **options: object) -> tuple[list[nib.Nifti1Image], PairSet]:
    scans = tmp_path / "in"
    pairset = prepare(scans, scans, "brain4", tmp_path / "set", **options)  # type: ignore[arg-type]
    paths = export_pair(pairset, "0", tmp_path / "back")
    originals = (scans / "0_T1.nii.gz", scans / "0_labels.nii.gz")
    return [nib.load(p) for p in (*originals, *paths)], pairset


@pytest.mark.parametrize(
    ("order", "flips", "tilt"),
    [(*o, 0.35) for o in ORIENTATIONS] + [(*o, 0.0) for o in ORIENTATIONS[::7]],
)
def test_every_orientation_survives(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...], tilt: float
) -> None:
    write_scans(tmp_path / "in", 1, oriented(order, flips, tilt))
    options = {} if sum(flips) > 0 else {"size": (30, 28, 26), "crop": "nonzero"}
    (image, label, image_back, label_back), _ = there_and_back(tmp_path, **options)
    for before, after in ((image, image_back), (label, label_back)):
        assert after.shape == before.shape
        np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
        np.testing.assert_allclose(after.header.get_zooms(), before.header.get_zooms(), rtol=1e-5)
    np.testing.assert_allclose(image_back.get_fdata(), image.get_fdata(), atol=0.01)
    np.testing.assert_array_equal(label_back.get_fdata(), label.get_fdata())


@pytest.mark.parametrize("tilt", [0.0, 0.35])
def test_resampling_is_undone_up_to_its_blur(tmp_path: Path, tilt: float) -> None:
    write_scans(tmp_path / "in", 1, oriented((2, 0, 1), (-1, 1, -1), tilt))
    (image, label, image_back, label_back), pairset = there_and_back(tmp_path, spacing=1.0)
    assert pairset.spacing == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(image_back.affine, image.affine, atol=1e-4)
    inside = label.get_fdata() > 0
    error = np.abs(image_back.get_fdata() - image.get_fdata())[inside]
    assert np.median(error) < 0.1 * np.median(image.get_fdata()[inside])
    assert (label_back.get_fdata() == label.get_fdata()).mean() > 0.95


def test_all_orientations_give_one_pair(tmp_path: Path) -> None:
    """The same brain stored in any axis order is prepared to the same voxels."""
    labels = []
    for number, (order, flips) in enumerate(itertools.islice(ORIENTATIONS, 0, None, 9)):
        affine = np.zeros((4, 4))
        for axis, (row, sign) in enumerate(zip(order, flips, strict=True)):
            affine[row, axis] = 2.0 * sign
        affine[3, 3] = 1
        scans = write_scans(tmp_path / str(number), 1, affine)
        labels.append(prepare(scans, scans, "brain4", tmp_path / f"o{number}").read("0").label)
    for other in labels[1:]:
        np.testing.assert_array_equal(other, labels[0])


def test_generated_pairs_keep_their_grid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (6, 5, 4)).astype(np.float32)
    label = rng.integers(0, 8, (6, 5, 4)).astype(np.uint8)
    for name, scale, shift in (("thorax7", 2000, -1000), ("brain4", 1, 0)):
        schema = load_schema(name)
        made = PairSet.create(tmp_path / name, schema, (3, 2, 2), (6, 5, 4), intensity_of(schema))
        pair = Pair("g", image, np.minimum(label, schema.num_classes - 1), np.diag([2, 2, 3, 1.0]))
        made.write(pair, {"seed": 7})
        image_path, _ = export_pair(made, "g", tmp_path / "back")
        order = (2, 1, 0) if name == "thorax7" else (2, 0, 1)
        want = image.transpose(order) * scale + shift
        np.testing.assert_allclose(nib.load(image_path).get_fdata(), want, atol=1e-3)


def test_sets_are_studies_of_monai_label(tmp_path: Path) -> None:
    made = write_phantom_set(tmp_path / "set", "brain4", (20, 18, 16), 2)
    export_files(made, tmp_path / "studies", form="monailabel")
    for identity in made.ids():
        image = nib.load(tmp_path / "studies" / f"{identity}.nii.gz")
        label = nib.load(tmp_path / "studies" / "labels" / "final" / f"{identity}.nii.gz")
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(np.asanyarray(label.dataobj))) == set(range(6))
    (pair,) = export_files(made, tmp_path / "one", [made.ids()[0]])
    assert [path.name for path in pair] == [
        f"{made.ids()[0]}_{kind}.nii.gz" for kind in ("image", "label")
    ]
    with pytest.raises(MedpairError, match="--format: tiff, wanted nifti, monailabel, dicom"):
        export_files(made, tmp_path / "none", form="tiff")
