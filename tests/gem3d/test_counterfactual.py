"""Counterfactuals: the edit changes its region, and the scan's grid, units and outside are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from common.data.geometry import plan_grid
from common.data.labels import load_schema
from common.data.phantom import make_phantom, write_phantom_set
from common.data.prepare import prepare
from common.data.views import from_dhw
from common.errors import MedpairError
from gem3d.counterfactual import Counterfactual, fullest_slice
from gem3d.reference import slice_on_grid
from tests.gem3d.fake_generator import FakeGenerator

SCHEMA = load_schema("brain4")
SIZE = (32, 30, 28)
SPACING = (6.0, 5.5, 5.0)  # D, H, W
EDIT = [{"op": "add_sphere", "label": "csf", "centre_fraction": [0.7, 0.5, 0.5], "radius_mm": 14}]
EDIT[0]["over"] = ["cortex", "subcortical_gm", "white_matter", "brain"]


def write_scan(folder: Path) -> None:
    """A scan stored towards Left and Posterior, in raw values 0..800."""
    image, label = make_phantom(SCHEMA, SIZE, 3)
    affine = np.diag([-5.0, -6.0, 5.5, 1.0])  # R, A, S widths; two axes flipped
    affine[:3, 3] = [60, 90, -70]
    for name, array in (("scan", image.clip(0, 1) * 800), ("mask", label)):
        stored = from_dhw(array, SCHEMA.slice_axis)[::-1, ::-1]
        kind = np.float32 if name == "scan" else np.uint8
        nib.save(nib.Nifti1Image(stored.astype(kind), affine), folder / f"{name}.nii.gz")
    (folder / "edit.yaml").write_text(yaml.safe_dump(EDIT))
    (folder / "model.pt").write_bytes(b"weights")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    write_scan(folder)
    return folder


def use(scan: Path, out: Path, **changes: Any) -> Counterfactual:
    generator = changes.pop("generator", FakeGenerator())
    files = {key: str(scan / name) for key, name in (("image", "scan.nii.gz"),)}
    files |= {"mask": str(scan / "mask.nii.gz"), "edit": str(scan / "edit.yaml")}
    options = {**files, "crop": None, "margin_mm": 6.0} | changes
    return Counterfactual(generator, str(out), str(scan / "model.pt"), **options)


def run(scan: Path, out: Path, **changes: Any) -> dict[str, Any]:
    use(scan, out, **changes)()
    return dict(json.loads((out / "report.json").read_text()))


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_files_come_back_in_the_scans_grid(scan: Path, tmp_path: Path) -> None:
    report = run(scan, tmp_path)
    before, after = nib.load(scan / "scan.nii.gz"), nib.load(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(after.affine, before.affine)
    assert after.shape == before.shape
    mask, edited = load(scan / "mask.nii.gz"), load(tmp_path / "mask.nii.gz")
    assert (mask != edited).sum() == report["edit"]["changed_voxels"] > 50
    assert set(np.unique(edited[mask != edited])) == {SCHEMA.id_of("csf")}
    assert load(tmp_path / "image.nii.gz").max() > 200  # raw values again
    assert (tmp_path / "counterfactual.png").is_file()


def test_both_images_share_noise_and_informed_slice(scan: Path, tmp_path: Path) -> None:
    generator = FakeGenerator(noise=0.05)
    report = run(scan, tmp_path, generator=generator)
    assert generator.calls == [(0, 0)]
    assert generator.informed[0] is generator.informed[1]
    assert report["informed"]["imposed"]
    effect = report["locality"]["result_to_unedited"]
    assert effect["outside"]["mae"] == 0  # the noise is the same: only the edit differs
    assert effect["inside"]["mae"] > 0.02
    assert report["locality"]["unedited_to_source"]["outside"]["mae"] > 0.02


def test_the_outside_is_kept_to_the_bit(scan: Path, tmp_path: Path) -> None:
    report = run(scan, tmp_path, keep_outside=True, generator=FakeGenerator(noise=0.1))
    before, after = load(scan / "scan.nii.gz"), load(tmp_path / "image.nii.gz")
    mask, edited = load(scan / "mask.nii.gz"), load(tmp_path / "mask.nii.gz")
    assert report["locality"]["result_to_source"]["outside"]["mae"] == 0
    changed = np.argwhere(mask != edited)
    far = np.argwhere(before != after)
    widths = np.array([5.0, 6.0, 5.5])
    for voxel in far[:: max(1, len(far) // 200)]:
        assert np.linalg.norm((changed - voxel) * widths, axis=1).min() <= 6.0
    assert len(far) > 50


def test_without_it_the_generator_repaints_everything(scan: Path, tmp_path: Path) -> None:
    run(scan, tmp_path, generator=FakeGenerator(noise=0.1))
    before, after = load(scan / "scan.nii.gz"), load(tmp_path / "image.nii.gz")
    body = load(scan / "mask.nii.gz") > 0
    assert (before != after)[body].mean() > 0.9


def test_another_grid_of_the_generator(scan: Path, tmp_path: Path) -> None:
    changes = {"spacing": (8.0, 8.0, 8.0), "size": (24, 24, 20), "crop": "nonzero"}
    report = run(scan, tmp_path, keep_outside=True, **changes)
    before, after = load(scan / "scan.nii.gz"), load(tmp_path / "image.nii.gz")
    assert before.shape == after.shape
    assert 0 < (before != after).mean() < 0.2
    assert report["locality"]["voxels"]["changed"] > 0


def test_a_drawn_mask_equals_the_operations_that_drew_it(scan: Path, tmp_path: Path) -> None:
    run(scan, tmp_path / "a")
    drawn = tmp_path / "a" / "mask.nii.gz"
    report = run(scan, tmp_path / "b", edit=str(drawn))
    for name in ("image.nii.gz", "mask.nii.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    mask = nib.load(drawn)
    bare = np.asarray(mask.dataobj).copy()
    bare[bare == SCHEMA.container_id] = 0  # drawn without the container
    nib.save(nib.Nifti1Image(bare, mask.affine), tmp_path / "bare.nii.gz")
    again = run(scan, tmp_path / "c", edit=str(tmp_path / "bare.nii.gz"))
    assert again["edit"]["changed_voxels"] == report["edit"]["changed_voxels"]


def by_level(image_VDHW: torch.Tensor) -> torch.Tensor:
    """Segment what the fake generator draws: csf is 0.2 of the gain."""
    unit = (image_VDHW + 1) / 2
    dark = (unit > 0.02) & (unit < 0.3 * unit.quantile(0.99))
    return torch.where(dark, 4, torch.where(unit > 0.02, 3, 0)).to(torch.uint8)


def blocks(image_VDHW: torch.Tensor) -> torch.Tensor:
    """Features: means of blocks of 4 x 4 x 4 voxels."""
    return torch.nn.functional.avg_pool3d(image_VDHW[:, None], 4)


def test_alignment_and_identity_are_measured(scan: Path, tmp_path: Path) -> None:
    write_phantom_set(tmp_path / "set", "brain4", SIZE, 4, spacing=SPACING)
    report = run(
        scan,
        tmp_path / "out",
        segment=by_level,
        features=blocks,
        dataset_dir=str(tmp_path / "set"),
        keep_outside=True,
    )
    assert report["alignment"]["changed"]["as_edited"] > 0.7
    identity = report["identity"]["result"]
    assert identity["n_others"] == 3  # phantom 3 is the scan itself
    assert identity["rank"] == 1
    assert identity["ratio"] < 0.8


def test_the_default_slice_is_the_fullest_that_is_not_edited() -> None:
    label = np.zeros((6, 8, 8), np.uint8)
    for z, size in ((1, 2), (2, 5), (3, 6), (4, 4)):
        label[z, :size, :size] = 1
    edited = label.copy()
    edited[3, 1, 1] = 2
    assert fullest_slice(label, edited) == 2
    edited[2, 1, 1] = 2
    assert fullest_slice(label, edited) == 4
    edited[1:5, 0, 0] = 2
    assert fullest_slice(label, edited) == 3


def test_a_slice_of_the_file_is_found_on_the_grid(scan: Path, tmp_path: Path) -> None:
    report = run(scan, tmp_path / "a", slice=6)
    assert report["informed"]["start"] == 6  # the grid is the file's
    changes = {"spacing": (12.0, 5.5, 5.0), "size": (16, 30, 28)}
    report = run(scan, tmp_path / "b", slice=6, **changes)
    assert report["informed"]["start"] == 3
    grid = plan_grid((28, 32, 30), (5, 6, 5.5), spacing=(5, 12, 5.5), size=(28, 4, 30))
    with pytest.raises(MedpairError, match="lies outside the volume's grid"):
        slice_on_grid(0, (28, 32, 30), grid, "AP", "x")


def test_an_informed_slice_inside_the_edit_is_not_imposed(scan: Path, tmp_path: Path) -> None:
    report = run(scan, tmp_path, slice=22)
    assert not report["informed"]["imposed"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"edit": None}, "--edit: none"),
        ({"image": None}, "--image: none"),
        ({"image": "none.nii.gz"}, "no such file"),
        ({"slice": 32}, "--slice: 32, wanted 0..31"),
        ({"dataset_dir": "phantom:brain4:16x16x16:1", "features": blocks}, "prepared for this"),
        ({"generator": FakeGenerator(broken=True)}, "NaN in the result"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    scan: Path, tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    with pytest.raises(MedpairError, match=part):
        run(scan, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        ([{"op": "move", "label": "csf", "mm": [0.1, 0, 0]}], "want an edit that changes the mask"),
        ([{"op": "grow"}], "op 'grow'"),
    ],
)
def test_an_edit_without_effect_is_named(
    scan: Path, tmp_path: Path, edit: list[dict[str, Any]], part: str
) -> None:
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(edit))
    with pytest.raises(MedpairError, match=part):
        run(scan, tmp_path / "out", edit=str(tmp_path / "e.yaml"))
    assert not (tmp_path / "out").exists()


def test_an_edit_that_vanishes_in_resampling_is_named(scan: Path, tmp_path: Path) -> None:
    mask = nib.load(scan / "mask.nii.gz")
    drawn = np.asarray(mask.dataobj).copy()
    drawn[tuple(np.argwhere(drawn == 3)[0])] = 4
    nib.save(nib.Nifti1Image(drawn, mask.affine), tmp_path / "e.nii.gz")
    changes = {"spacing": (24.0, 24.0, 24.0), "size": (8, 8, 8)}
    with pytest.raises(MedpairError, match="none on the generator's grid"):
        run(scan, tmp_path / "out", edit=str(tmp_path / "e.nii.gz"), **changes)
    assert not (tmp_path / "out").exists()


def test_a_ct_that_is_normalised_already_is_refused(tmp_path: Path) -> None:
    schema = load_schema("abdomen4")
    image, label = make_phantom(schema, (16, 32, 32), 0)
    for name, array in (("scan", image), ("mask", label)):
        stored = from_dhw(array, schema.slice_axis)
        nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "edit.yaml").write_text(yaml.safe_dump([{"op": "flip"}]))
    (tmp_path / "model.pt").write_bytes(b"weights")
    with pytest.raises(MedpairError, match="wanted Hounsfield units"):
        run(tmp_path, tmp_path / "out", schema="abdomen4", source="schema")
    with pytest.raises(MedpairError, match="say which with source"):
        run(tmp_path, tmp_path / "out", schema="abdomen4")


def test_the_scan_is_known_again_in_its_own_pair_set(scan: Path, tmp_path: Path) -> None:
    for kind in ("scan", "mask"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "x.nii.gz").write_bytes((scan / f"{kind}.nii.gz").read_bytes())
    prepare(tmp_path / "scan", tmp_path / "mask", "brain4", tmp_path / "set", source="schema")
    report = run(scan, tmp_path / "out", features=blocks, dataset_dir=str(tmp_path / "set"))
    assert report["identity"]["result"]["n_others"] == 0
