"""Pairs to DICOM and back: the same place, the same labels, no patient anywhere."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from common.cli import app
from common.data.datasets import PairSet
from common.data.dicom_export import export_dicom
from common.data.geometry import to_ras
from common.data.labels import LabelSchema, load_schema
from common.data.phantom import make_phantom, write_phantom_set
from common.data.prepare import prepare
from common.data.provenance import provenance_of
from common.data.views import from_dhw
from common.errors import MedpairError
from common.io.dicom import choose_series, find_series, read_series
from common.io.dicom_out import Study, mr_scale, write_study
from tests.common.io.dicom_samples import PLANTED, SERIES, write_series, write_structures

SIZE = (20, 24, 22)
OBLIQUE = np.array(
    [[-3.9, 0.5, 0.0, 60.0], [0.5, 3.9, 0.0, -70.0], [0.0, 0.0, 4.0, -50.0], [0, 0, 0, 1.0]]
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of the thorax, which has sides, as pair set and as DICOM."""
    folder = tmp_path_factory.mktemp("exported")
    write_phantom_set(folder / "set", "thorax7", SIZE, 2)
    export_dicom(PairSet.open(folder / "set"), folder / "dicom")
    return folder


def datasets(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


def test_a_study_comes_back_as_the_pair_it_was(exported: Path, tmp_path: Path) -> None:
    back = prepare(exported / "dicom", exported / "dicom", "thorax7", tmp_path / "set")
    first = PairSet.open(exported / "set")
    for identity in first.ids():
        was, found = first.read(identity), back.read(identity)
        np.testing.assert_array_equal(found.label, was.label)
        np.testing.assert_allclose(found.image, was.image, atol=0.6 / 2000)  # whole HU
        corners = np.array([[x, y, z, 1] for x in (0, 21) for y in (0, 23) for z in (0, 19)]).T
        assert np.abs((found.affine - was.affine) @ corners).max() <= 1e-4  # mm


def test_objects_say_what_they_are(exported: Path) -> None:
    found = datasets(exported / "dicom" / PairSet.open(exported / "set").ids()[0])
    images, (segmentation,) = found[:-1], found[-1:]
    assert len(images) == SIZE[0]
    assert {d.Modality for d in images} == {"CT"}
    assert {d.SyntheticData for d in found} == {"YES"}
    assert all("generated" in d.DerivationDescription.lower() for d in images)
    assert len({d.StudyInstanceUID for d in found}) == 1
    assert len({d.SOPInstanceUID for d in found}) == len(found)
    assert segmentation.SOPClassUID.name == "Segmentation Storage"
    schema = load_schema("thorax7")
    for segment in segmentation.SegmentSequence:
        label = schema.labels[schema.id_of(segment.SegmentLabel) - 1]
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert label.code is not None
        assert (kind.CodeValue, kind.CodeMeaning) == (label.code.value, label.code.meaning)
        assert len(segment.RecommendedDisplayCIELabValue) == 3
        sides = kind.get("SegmentedPropertyTypeModifierCodeSequence") or []
        assert [side.CodeMeaning.lower() for side in sides] == [
            side for side in [label.code.side] if side
        ]


def test_equal_pairs_give_equal_bytes(exported: Path, tmp_path: Path) -> None:
    export_dicom(PairSet.open(exported / "set"), tmp_path)
    for path in sorted(tmp_path.rglob("*.dcm")):
        first = exported / "dicom" / path.relative_to(tmp_path)
        assert path.read_bytes() == first.read_bytes(), path.name


@pytest.mark.optional_tool("dciodvfy")
@pytest.mark.parametrize("schema", ["thorax7", "brain4", "lesion1"])
def test_the_validator_finds_no_error(schema: str, tmp_path: Path) -> None:
    """It is of 2022 and does not know (0008,001C), SyntheticData, which the standard has since."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian: dicom3tools)")
    write_phantom_set(tmp_path / "set", schema, (16, 20, 20), 1)
    export_dicom(PairSet.open(tmp_path / "set"), tmp_path / "out")
    for path in sorted((tmp_path / "out").rglob("*.dcm")):
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        errors = [x for x in (said.stdout + said.stderr).splitlines() if x.startswith("Error")]
        assert [x for x in errors if "(0x0008,0x001c)" not in x] == [], path.name


def head(folder: Path, **changes: Any) -> np.ndarray:
    """A CT phantom as a DICOM series with an RTSTRUCT beside it; returns its mask (X, Y, Z)."""
    image, label = make_phantom("thorax7", SIZE, 3)
    hounsfield = np.round((from_dhw(image, "SI") * 2000 - 1000) / 2) * 2
    mask = from_dhw(label, "SI")
    write_series(folder, hounsfield, OBLIQUE, **changes)
    schema = load_schema("thorax7")
    names = {1: "Lung_L", 2: "lung right", 5: "HEART", 7: "External"}
    rings = {name: contours(mask == value) for value, name in names.items()}
    write_structures(folder / "structures.dcm", {**rings, PLANTED: rings["HEART"]})
    kept = np.where(np.isin(mask, list(names)), mask, schema.id_of("body") * (mask > 0))
    return np.asarray(kept)


def contours(mask: np.ndarray) -> list[np.ndarray]:
    """One small square contour per voxel run would do; here: one per voxel of the mask."""
    rings = []
    for x, y, z in np.argwhere(mask):
        square = np.array([[x - 0.4, y - 0.4], [x + 0.4, y - 0.4], [x + 0.4, y + 0.4]])
        square = np.vstack([square, [x - 0.4, y + 0.4]])
        points = np.column_stack([square, np.full(4, z), np.ones(4)])
        rings.append((points @ OBLIQUE.T)[:, :3])
    return rings


def test_structures_become_labels_by_their_aliases(tmp_path: Path) -> None:
    wanted = head(tmp_path / "p1")
    pairs = prepare(tmp_path, tmp_path, "thorax7", tmp_path / "set", holdout=0.0)
    assert pairs.ids() == ("p1",)
    found = from_dhw(pairs.read("p1").label, "SI")
    in_ras, _ = to_ras(wanted, OBLIQUE)
    agree = [np.mean(found[in_ras == value] == value) for value in (1, 2, 5)]
    assert min(agree) == 1.0
    assert pairs.record("p1")["warnings"] == ["1 structures left out (numbers 5)"]


def test_nothing_of_the_patient_is_written_or_said(tmp_path: Path) -> None:
    head(tmp_path / "scans" / "p1")
    words = ["prepare", "--images", str(tmp_path / "scans"), "--labels", str(tmp_path / "scans")]
    words += ["--schema", "thorax7", "--out", str(tmp_path / "set")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    export_dicom(PairSet.open(tmp_path / "set"), tmp_path / "out")
    assert "Planted" not in said.output
    files = [p for name in ("set", "out") for p in (tmp_path / name).rglob("*") if p.is_file()]
    assert len(files) > SIZE[0]
    for path in files:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert b"Planted" not in content, path


def test_the_command_lists_series_and_names(tmp_path: Path) -> None:
    head(tmp_path / "p1")
    words = ["dicom", str(tmp_path), "--schema", "thorax7"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert f"CT {SERIES} ({SIZE[0]} files)" in lines
    assert "  1: Lung_L -> left_lung" in lines
    assert f"  5: {PLANTED} -> no label" in lines
    log = tmp_path / "run.log"
    shown = subprocess.run(
        [sys.executable, "-m", "medpair", *words, "--quiet", "--log-file", str(log)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert PLANTED in shown.stdout
    assert "Planted" not in log.read_text()
    assert "Planted" not in shown.stderr


def test_structures_without_a_name_of_the_schema(tmp_path: Path) -> None:
    head(tmp_path / "p1")
    ring = contours(np.ones((2, 2, 1), bool))
    write_structures(tmp_path / "p1" / "structures.dcm", {PLANTED: ring, "ring finger": ring})
    with pytest.raises(MedpairError, match="none of its 2 structures is known to schema") as caught:
        prepare(tmp_path, tmp_path, "thorax7", tmp_path / "set")
    assert "Planted" not in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_a_series_of_another_modality_is_refused(tmp_path: Path) -> None:
    head(tmp_path / "p1", modality="MR")
    with pytest.raises(MedpairError, match="0 image series fit CT, wanted one"):
        prepare(tmp_path, tmp_path, "thorax7", tmp_path / "set")
    named = prepare(tmp_path, tmp_path, "thorax7", tmp_path / "set", series="MR", holdout=0.0)
    assert named.ids() == ("p1",)


def test_labels_belong_to_the_scan_of_their_name(tmp_path: Path) -> None:
    head(tmp_path / "scans" / "p1")
    (tmp_path / "labels").mkdir()
    structures = (tmp_path / "scans" / "p1" / "structures.dcm").rename(
        tmp_path / "labels" / "p7.dcm"
    )
    with pytest.raises(MedpairError, match="without a mask"):
        prepare(tmp_path / "scans", tmp_path / "labels", "thorax7", tmp_path / "set")
    structures.rename(tmp_path / "labels" / "p1.dcm")
    pairs = prepare(tmp_path / "scans", tmp_path / "labels", "thorax7", tmp_path / "set")
    assert pairs.ids() == ("p1",)


def test_structures_of_another_series_are_refused(tmp_path: Path) -> None:
    head(tmp_path / "p1", uid="9.9.9")
    with pytest.raises(MedpairError, match=f"refers to series {SERIES}, the image is series 9.9.9"):
        prepare(tmp_path, tmp_path, "thorax7", tmp_path / "set")


def test_missing_contours_are_a_warning(tmp_path: Path) -> None:
    head(tmp_path / "p1")
    mask = np.zeros((22, 24, SIZE[0]), dtype=bool)
    mask[8:12, 8:12, [3, 4, 8]] = True
    write_structures(tmp_path / "p1" / "structures.dcm", {"heart": contours(mask)})
    pairs = prepare(tmp_path, tmp_path, "thorax7", tmp_path / "set", holdout=0.0)
    assert pairs.record("p1")["warnings"] == [
        "structure 1 (heart) has 3 empty slices between its slices"
    ]


def test_series_in_folders_of_one_scan_are_one_scan(tmp_path: Path) -> None:
    head(tmp_path / "scan" / "CT")
    (tmp_path / "scan" / "RS").mkdir()
    (tmp_path / "scan" / "CT" / "structures.dcm").rename(tmp_path / "scan" / "RS" / "rs.dcm")
    pairs = prepare(tmp_path / "scan", tmp_path / "scan", "thorax7", tmp_path / "a", holdout=0.0)
    assert pairs.ids() == ("scan",)
    head(tmp_path / "scan" / "CT")  # two patients again, of whom one has no image
    with pytest.raises(MedpairError, match="image series"):
        prepare(tmp_path / "scan", tmp_path / "scan", "thorax7", tmp_path / "b")


def test_contours_between_slices_are_refused(tmp_path: Path) -> None:
    head(tmp_path / "p1")
    ring = contours(np.ones((2, 2, 1), bool))[0] + [0.0, 0.0, 2.0]
    write_structures(tmp_path / "p1" / "structures.dcm", {"heart": [ring]})
    with pytest.raises(MedpairError, match=r"structure 1 lies 0\.50 slices off a slice"):
        prepare(tmp_path, tmp_path, "thorax7", tmp_path / "set")


def test_nifti_masks_fit_dicom_images(tmp_path: Path) -> None:
    mask = head(tmp_path / "dicom" / "p1")
    (tmp_path / "dicom" / "p1" / "structures.dcm").unlink()
    (tmp_path / "masks").mkdir()
    ras, affine = to_ras(mask.astype(np.uint8), OBLIQUE)
    nib.save(nib.Nifti1Image(ras, affine), tmp_path / "masks" / "p1.nii.gz")
    pairs = prepare(
        tmp_path / "dicom", tmp_path / "masks", "thorax7", tmp_path / "set", source="schema"
    )
    found = from_dhw(pairs.read("p1").label, "SI")
    assert np.array_equal(found[ras > 0], ras[ras > 0])


def test_a_second_export_leaves_nothing_of_the_first(exported: Path, tmp_path: Path) -> None:
    pairs = PairSet.open(exported / "set")
    (folder, _) = export_dicom(pairs, tmp_path)
    (folder / "image" / "0099.dcm").write_bytes(b"left over")
    export_dicom(pairs, tmp_path)
    assert len(list((folder / "image").iterdir())) == SIZE[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(pairs.ids())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-5.8, 5.9), (0.0, 2000.0), (0.0, 3e5)])
def test_an_mri_keeps_its_levels(low: float, high: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = (low + (high - low) * rng.random((6, 7, 5))).astype(np.float32)
    label = np.ones((6, 7, 5), np.uint8)
    study = Study("a", load_schema("lesion1"), "e", "Real scan.", False, False, mr_scale(image))
    write_study(tmp_path, study, image, label, np.eye(4))
    found, affine, _ = read_series(find_series(tmp_path / "image")[0])
    in_ras, _ = to_ras(found, affine)
    assert np.abs(in_ras / study.scale - image).max() <= (high - low) / 1000
    said = datasets(tmp_path / "image")[0]
    assert (f"times {study.scale:g}" in said.DerivationDescription) == (study.scale != 1)


def test_a_given_mask_is_not_claimed(tmp_path: Path) -> None:
    study = Study("a", load_schema("lesion1"), "e", "Real scan.", False, drawn=False)
    write_study(
        tmp_path, study, np.zeros((4, 4, 3), np.float32), np.ones((4, 4, 3), np.uint8), np.eye(4)
    )
    image, segmentation = (datasets(tmp_path)[i] for i in (0, -1))
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    assert image.SyntheticData == segmentation.SyntheticData == "NO"
    assert "PatientIdentityRemoved" not in image


@pytest.mark.parametrize("identity", ["Doe^John", "a" * 56, "a\\b"])
def test_ids_that_dicom_does_not_know_are_refused(identity: str) -> None:
    with pytest.raises(MedpairError, match="an id in DICOM has at most 55 characters"):
        Study(identity, load_schema("lesion1"), "e", "d", True)


def test_labels_without_codes_are_refused(tmp_path: Path) -> None:
    plain = load_schema("lesion1").to_dict()
    del plain["labels"][0]["code"]
    write_phantom_set(tmp_path / "set", LabelSchema.from_dict(plain), (16, 20, 20), 1)
    with pytest.raises(MedpairError, match="schema lesion1: no code for lesion; add code"):
        export_dicom(PairSet.open(tmp_path / "set"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("header", "record", "wanted"),
    [
        ({}, {"source": {"image": "a"}}, ("real", "real", None, None)),
        (
            {"generated": {"pipeline": "medgen3d", "stages": {"mask": {}, "image": {}}}},
            {"source": "generated"},
            ("generated", "generated", None, "medgen3d"),
        ),
        (
            {"generated": {"pipeline": "medgen3d", "stages": {"refine": {}}}},
            {"source": "generated"},
            ("given", "given", None, "medgen3d"),
        ),
        ({"phantom": {"seed": 0}}, {}, ("phantom", "phantom", None, None)),
        ({}, {}, ("not stated", "not stated", None, None)),
        (
            {"generated": {"bundle": "gem3d_volume"}},
            {"source": {"label": "a"}, "informed": {"kind": "given"}},
            ("generated", "given", "given", "gem3d_volume"),
        ),
        (
            {"generated": {"bundle": "gem3d_volume"}},
            {"source": {"mask": "a"}, "informed": {"kind": "cross"}, "mask_augmentation": {"s": 1}},
            ("generated", "real, changed", "real", "gem3d_volume"),
        ),
        (
            {"generated": {"pipeline": "gem3d", "stages": {"mask": {}, "volume": {}}}},
            {"source": "generated", "informed": {"kind": "generated"}},
            ("generated", "generated", "generated", "gem3d"),
        ),
    ],
)
def test_a_pair_knows_what_of_it_is_real(
    header: dict[str, Any], record: dict[str, Any], wanted: tuple[Any, ...]
) -> None:
    found = provenance_of(header, record)
    assert (found.image, found.mask, found.slice, found.maker) == wanted
    assert found.synthetic == (wanted[0] in ("generated", "given", "phantom"))
    assert found.says().endswith(".")


def test_a_real_compressed_series_goes_in_and_out(tmp_path: Path) -> None:
    root = os.environ.get("MEDPAIR_DATA")
    folder = Path(root or "") / "ct_totalsegmentator"
    if not root or not folder.is_dir():
        pytest.skip("MEDPAIR_DATA holds no ct_totalsegmentator")
    series, mask = folder / "example_ct_dicom", folder / "example_seg_dicom.nii.gz"
    words = {"source": "totalsegmentator", "holdout": 0.0}
    pairs = prepare(series, mask, "abdomen4", tmp_path / "set", **words)  # type: ignore[arg-type]
    record = pairs.record("example_ct_dicom")
    assert record["warnings"] == []
    assert record["shape"] == [20, 512, 512]
    assert record["voxels"]["liver"] > 100_000
    assert len(export_dicom(pairs, tmp_path / "out")) == 1


def test_real_series_and_structures_go_in_and_out(tmp_path: Path) -> None:
    root = os.environ.get("MEDPAIR_DATA")
    folder = Path(root or "") / "ct_ibsi_phantom" / "dicom"
    if not root or not folder.is_dir():
        pytest.skip("MEDPAIR_DATA holds no ct_ibsi_phantom")
    schema = tmp_path / "tumour.yaml"
    schema.write_text(
        "name: tumour1\nmodality: CT\nslice_axis: SI\n"
        "intensity: {method: window, lower: -1000, upper: 3100}\n"
        "labels:\n"
        "  - {name: tumour, id: 1, colour: [215, 70, 80], aliases: [GTV-1], "
        "code: {value: '108369006', meaning: Neoplasm, category: lesion}}\n"
    )
    pairs = prepare(folder / "image", folder / "mask", schema, tmp_path / "set", holdout=0.0)
    (identity,) = pairs.ids()
    assert pairs.record(identity)["warnings"] == []
    assert pairs.record(identity)["voxels"]["tumour"] == 125_256  # as in the NIfTI beside it
    (study,) = export_dicom(pairs, tmp_path / "out")
    found, _, _ = read_series(choose_series(study, find_series(study / "image")))
    was, _, _ = read_series(find_series(folder / "image")[0])
    assert np.abs(found - was).max() <= 0.5
    again = prepare(tmp_path / "out", tmp_path / "out", schema, tmp_path / "again", holdout=0.0)
    assert again.record(identity)["voxels"] == pairs.record(identity)["voxels"]
