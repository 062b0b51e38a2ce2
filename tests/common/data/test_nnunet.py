"""The export to nnU-Net: who trains, who validates, and what the files say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from common import cli
from common.data.datasets import Pair, PairSet
from common.data.intensity import intensity_of
from common.data.labels import LabelSchema, load_schema
from common.data.nnunet import export_folders, label_table
from common.errors import MedpairError

SIZE = (5, 6, 7)
Make = Callable[..., PairSet]


def label_of(person: str, schema: LabelSchema) -> np.ndarray:
    rng = np.random.default_rng(int(person.removeprefix("p")))
    return rng.integers(0, schema.num_classes, SIZE).astype(np.uint8)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a pair set: {id: (person of the mask, split, more of the record)}."""

    def write(name: str, pairs: dict[str, Any], schema: str = "brain4", **info: Any) -> PairSet:
        kind = load_schema(schema)
        made = PairSet.create(tmp_path / name, kind, (2, 2, 3), SIZE, intensity_of(kind), **info)
        for number, (identity, (mask, split, record)) in enumerate(pairs.items()):
            image = np.random.default_rng(number).random(SIZE, dtype=np.float32)
            pair = Pair(identity, image, label_of(mask, kind), np.diag([2, 2, 3, 1.0]))
            made.write(pair, {"split": split, **record})
        return made

    return write


@pytest.fixture
def real(make: Make) -> PairSet:
    """Six scans of five persons in training, two scans of one other person kept back."""
    grid = {"scale": [1, 1, 1], "offset": [0, 0, 0]}
    scans = {
        f"r{n}": (f"p{n}", "training", {"person": f"p{n % 5}", "grid": grid}) for n in range(6)
    }
    kept = {f"v{n}": (f"p{n}", "validation", {"person": "p9", "grid": grid}) for n in (8, 9)}
    return make("real", scans | kept)


@pytest.fixture
def resampled(make: Make) -> PairSet:
    """Two new images for each of two masks, informed by the next person; one by a kept-back one."""

    def record(mask: str, person: str, informed: str) -> dict[str, Any]:
        source = {"mask": mask, "person": person}
        return {"person": person, "source": source, "informed": {"person": informed}}

    pairs = {
        f"r{n}_e{turn}": (f"p{n}", "training", record(f"r{n}", f"p{n}", f"p{n + 1}"))
        for n in (0, 1)
        for turn in (1, 2)
    }
    return make("resampled", pairs | {"x": ("p1", "training", record("r1", "p1", "p9"))})


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def persons(folder: Path, names: list[str]) -> set[str]:
    cases = read(folder, "medpair.json")["cases"]
    return {person for name in names for person in cases[name]["persons"]}


def test_one_fold_trains_on_all_and_validates_on_kept_back_scans(
    real: PairSet, resampled: PairSet, tmp_path: Path
) -> None:
    made = export_folders([real.dir, resampled.dir], tmp_path / "out")
    assert made.folder.name == "Dataset501_brain4"
    (fold,) = read(made.folder, "splits_final.json")
    assert fold["val"] == ["s0_v8", "s0_v9"]
    assert fold["train"] == [
        *(f"s0_r{n}" for n in range(6)),
        *(f"s1_{n}" for n in resampled.ids()[:4]),
    ]
    assert read(made.folder, "medpair.json")["left_out"] == {"s1_x": "it shows a kept-back person"}
    header = read(made.folder, "dataset.json")
    assert header["numTraining"] == 12
    assert header["channel_names"] == {"0": "MR"}
    assert list(header["labels"].values()) == [0, 1, 2, 3, 4, 5]
    assert len(list((made.folder / "imagesTr").iterdir())) == 12
    assert not (made.folder / "imagesTs").exists()


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_no_person_is_on_both_sides_of_any_fold(
    real: PairSet, resampled: PairSet, tmp_path: Path, folds: int
) -> None:
    made = export_folders([real.dir, resampled.dir], tmp_path / "out", folds=folds)
    splits = read(made.folder, "splits_final.json")
    assert len(splits) == folds
    for fold in splits:
        assert persons(made.folder, fold["train"]).isdisjoint(persons(made.folder, fold["val"]))
        assert all(name.startswith("s0_r") for name in fold["val"])
    judged = sorted(name for fold in splits for name in fold["val"])
    assert judged == [f"s0_r{n}" for n in range(6)]
    tested = {path.name for path in (made.folder / "labelsTs").iterdir()}
    assert tested == {"s0_v8.nii.gz", "s0_v9.nii.gz"}


def test_a_generated_pair_with_a_real_mask_belongs_to_its_person(
    real: PairSet, make: Make, tmp_path: Path
) -> None:
    anonymous = make("gen", {"s0_0": ("p3", "training", {}), "s0_1": ("p77", "training", {})})
    made = export_folders([real.dir, anonymous.dir], tmp_path / "out", folds=5)
    cases = read(made.folder, "medpair.json")["cases"]
    assert cases["s1_s0_0"]["persons"] == ["p3", "s0_0"]
    assert cases["s1_s0_1"]["persons"] == ["s0_1"]
    for fold in read(made.folder, "splits_final.json"):
        assert ("s1_s0_0" in fold["train"]) == ("s0_r3" not in fold["val"])
        assert "s1_s0_1" in fold["train"]


def test_generated_pairs_alone_validate_on_another_sets_scans(
    real: PairSet, resampled: PairSet, tmp_path: Path
) -> None:
    made = export_folders([resampled.dir], tmp_path / "out", test=real.dir, copies=1)
    (fold,) = read(made.folder, "splits_final.json")
    assert fold == {"train": ["s0_r0_e1", "s0_r1_e1"], "val": ["s1_v8", "s1_v9"]}


def test_files_hold_what_the_pairs_hold(real: PairSet, tmp_path: Path) -> None:
    made = export_folders([real.dir], tmp_path / "out")
    for kind, name in (("images", "s0_r1_0000.nii.gz"), ("labels", "s0_r1.nii.gz")):
        ours, theirs = real.dir / kind / "r1.nii.gz", made.folder / f"{kind}Tr" / name
        assert theirs.read_bytes() == ours.read_bytes()


def test_ct_is_written_in_hounsfield_units(make: Make, tmp_path: Path) -> None:
    record = {"grid": {}, "intensity": {"lower": -1000.0, "upper": 1000.0}}
    pairs = {n: (f"p{n}", s, record) for n, s in (("1", "training"), ("2", "validation"))}
    made_set = make("ct", pairs, "thorax7")
    made = export_folders([made_set.dir], tmp_path / "out")
    assert read(made.folder, "dataset.json")["channel_names"] == {"0": "CT"}
    image = nib.load(made.folder / "imagesTr" / "s0_1_0000.nii.gz").get_fdata()
    stored = nib.load(made_set.dir / "images" / "1.nii.gz").get_fdata()
    np.testing.assert_allclose(image, stored * 2000 - 1000, atol=1e-3)


def test_the_same_export_again_is_equal_and_another_is_refused(
    real: PairSet, tmp_path: Path
) -> None:
    made = export_folders([real.dir], tmp_path / "out")
    files = sorted(path for path in made.folder.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    files[-1].unlink()
    export_folders([real.dir], tmp_path / "out")
    assert [path.read_bytes() for path in files] == before
    with pytest.raises(MedpairError, match="holds something else"):
        export_folders([real.dir], tmp_path / "out", folds=2)
    export_folders([real.dir], tmp_path / "out", folds=2, dataset_id=7)


def test_regions_are_nested_groups() -> None:
    labels, order, regions = label_table(load_schema("brats3"))
    assert regions is True
    assert labels == {"background": 0, "WT": [1, 2, 3], "TC": [2, 3], "ET": [3], "brain": [4]}
    label = np.arange(5)
    decoded = np.zeros_like(label)
    for (_, members), value in zip(list(labels.items())[1:], order, strict=True):
        decoded[np.isin(label, members)] = value  # as nnU-Net turns regions back into labels
    assert np.array_equal(decoded, label)


@pytest.mark.parametrize("groups", [{"a": [1, 2], "b": [2, 3]}, {"a": [1, 2]}, {"a": [1, 2, 3]}])
def test_groups_that_do_not_decode_are_left_out(groups: dict[str, list[int]]) -> None:
    plain = load_schema("brats3").to_dict() | {"groups": groups}
    labels, order, regions = label_table(LabelSchema.from_dict(plain))
    assert list(labels.values()) == [0, 1, 2, 3, 4]
    assert order == []
    assert "not nested" in str(regions)


def test_a_person_kept_back_in_one_set_and_training_in_another_is_refused(
    real: PairSet, make: Make, tmp_path: Path
) -> None:
    other = make("other", {"z": ("p3", "training", {"person": "p9", "grid": {}})})
    with pytest.raises(MedpairError, match=r"person p9: in training .* and kept back"):
        export_folders([real.dir, other.dir], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_says_so(real: PairSet, make: Make, tmp_path: Path) -> None:
    generated = make("gen", {"a": ("p70", "training", {})})
    brats = make("brats", {"a": ("p70", "training", {})}, "brats3")
    out = tmp_path / "out"
    for folders, options, message in (
        ([generated.dir], {}, "no real scan was kept back"),
        ([generated.dir], {"folds": 2}, "--folds: 2 with 0 real persons"),
        ([real.dir], {"folds": 6}, "--folds: 6 with 5 real persons"),
        ([real.dir], {"dataset_id": 0}, "--dataset-id: 0, wanted 1..999"),
        ([real.dir, brats.dir], {}, "schema brats3 of 5 classes"),
        ([tmp_path / "none"], {}, "no pair set"),
    ):
        with pytest.raises(MedpairError, match=message):
            export_folders(folders, out, **options)
    assert not out.exists()


def test_the_command_joins_sets_or_writes_pairs(
    real: PairSet, resampled: PairSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> int:
        with pytest.raises(SystemExit) as done:
            cli.main(["export", str(real.dir), "--out", str(tmp_path / "out"), *map(str, words)])
        return int(str(done.value.code))

    assert run("--format", "nnunet", "--add", resampled.dir, "--copies", 1, "--folds", 5) == 0
    said = capsys.readouterr()
    assert "8 cases (6 real), 2 kept back" in said.out
    assert "left out: 1 generated pairs" not in said.out  # copies: the first by id
    for words, says in (
        (["--format", "nnunet", "r0"], "ID: r0 with --format nnunet, wanted whole sets"),
        (["--format", "tiff"], "--format: tiff, wanted nifti, monailabel, dicom, nnunet or"),
        (["r9"], "no pair 'r9'"),
    ):
        assert run(*words) == 2
        assert says in capsys.readouterr().err
    assert run("r0") == 0
    assert (tmp_path / "out" / "r0_image.nii.gz").is_file()


CHECK = (
    "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity;"
    "import sys; verify_dataset_integrity(sys.argv[1], 1)"
)


@pytest.mark.optional_tool("nnunet")
@pytest.mark.parametrize(("schema", "folds"), [("brain4", 1), ("brats3", 2), ("thorax7", 1)])
def test_nnunets_own_check_passes(make: Make, tmp_path: Path, schema: str, folds: int) -> None:
    pytest.importorskip("nnunetv2", reason="needs medpair[nnunet]")
    splits = ("training", "training", "validation")
    pairs = {f"{n}": (f"p{n}", split, {"grid": {}}) for n, split in enumerate(splits)}
    made = export_folders([make("set", pairs, schema).dir], tmp_path / "out", folds=folds)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(made.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stdout
    broken = made.folder / "labelsTr" / "s0_0.nii.gz"
    whole = nib.load(broken)
    nib.save(nib.Nifti1Image(whole.get_fdata().astype(np.uint8) + 9, whole.affine), broken)
    again = subprocess.run(
        [sys.executable, "-c", CHECK, str(made.folder)], capture_output=True, text=True, check=False
    )
    assert again.returncode != 0  # a check that cannot fail would say nothing
