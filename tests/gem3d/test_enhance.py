"""Enhancement: K new images per training mask, resumable, audited."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.data.sidesets import take_out
from common.errors import MedpairError
from gem3d.enhance import Enhancement
from gem3d.mask_augment import MaskAugmentation
from tests.gem3d.fake_generator import FakeGenerator, fake_slices

SIZE = (20, 24, 24)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_phantom_set(folder, "brain4", SIZE, 5, holdout=0.2)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> str:
    (tmp_path / "model.pt").write_bytes(b"weights")
    return str(tmp_path / "model.pt")


def enhance(data: Path, weights: str, out: Path, **changes: Any) -> PairSet:
    generator = changes.pop("generator", FakeGenerator())
    options = {"times": 2, "batch_volumes": 3} | changes
    return Enhancement(generator, str(data), str(out), weights, **options)()


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.jsonl")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_training_mask_gets_k_images(data: Path, weights: str, tmp_path: Path) -> None:
    real = PairSet.open(data)
    made = enhance(data, weights, tmp_path / "out")
    training = real.ids("training")
    assert made.ids() == tuple(sorted(f"{i}_e0{k}" for i in training for k in (1, 2)))
    for name in made.ids():
        record, mask = made.record(name), name.split("_e")[0]
        assert record["source"] == {"mask": mask, "person": real.person(mask)}
        assert record["informed"]["person"] != record["person"] == real.person(mask)
        assert record["informed"]["id"] in training
        assert {"start", "area_ratio", "within_tolerance", "slice"} <= set(record["informed"])
        assert record["seed"] == 0
        np.testing.assert_array_equal(made.read(name).label, real.read(mask).label)
        np.testing.assert_array_equal(made.read(name).affine, real.read(mask).affine)
    volumes = [made.record(name)["volume"] for name in made.ids()]
    assert sorted(volumes) == list(range(2 * len(training)))
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_equal_bytes_whether_broken_off_or_raised_later(
    data: Path, weights: str, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    enhance(data, weights, whole)
    generator = FakeGenerator()
    enhance(data, weights, cut, times=1, generator=generator)
    lines = (cut / "manifest.jsonl").read_text().splitlines()
    (cut / "manifest.jsonl").write_text("".join(line + "\n" for line in lines[:-1]))
    enhance(data, weights, cut)
    assert tree(whole) == tree(cut)
    assert {len(call) for call in generator.calls} == {3}  # 4 masks: the last batch is filled up


def test_a_finished_set_is_left_alone(data: Path, weights: str, tmp_path: Path) -> None:
    enhance(data, weights, tmp_path / "out")
    generator = FakeGenerator()
    enhance(data, weights, tmp_path / "out", generator=generator)
    assert generator.calls == []


def test_pairs_that_an_audit_took_out_are_not_made_again(
    data: Path, weights: str, tmp_path: Path
) -> None:
    made = enhance(data, weights, tmp_path / "out")
    copy, *others = made.ids()
    take_out(made, {copy: "copy"}, quarantine=True)
    generator = FakeGenerator()
    assert enhance(data, weights, tmp_path / "out", generator=generator).ids() == tuple(others)
    assert generator.calls == []


def test_another_seed_and_another_informed_slice_give_other_images(
    data: Path, weights: str, tmp_path: Path
) -> None:
    one = enhance(data, weights, tmp_path / "a", times=1)
    other = enhance(data, weights, tmp_path / "b", times=1, seed=1)
    records = [[s.record(n)["informed"] for n in s.ids()] for s in (one, other)]
    assert records[0] != records[1]
    with pytest.raises(MedpairError, match="already a pair set"):
        enhance(data, weights, tmp_path / "a", seed=1)


def test_generated_slices_and_augmented_masks(data: Path, weights: str, tmp_path: Path) -> None:
    changes = {"informed": "generated", "slices": fake_slices, "times": 1}
    made = enhance(data, weights, tmp_path / "a", augmentation=MaskAugmentation(flip=1), **changes)
    record = made.record(made.ids()[0])
    assert record["informed"]["kind"] == "generated"
    assert record["mask_augmentation"]["changed_voxels"] > 0
    real = PairSet.open(data).read(record["source"]["mask"])
    assert (made.read(made.ids()[0]).label != real.label).any()
    again = enhance(data, weights, tmp_path / "b", augmentation=MaskAugmentation(flip=1), **changes)
    assert made.manifest.path.read_bytes() == again.manifest.path.read_bytes()


def test_the_report_says_what_was_copied(data: Path, weights: str, tmp_path: Path) -> None:
    enhance(data, weights, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "enhance.json").read_text())
    detail = report["copies"]["detail"]
    assert 0 <= detail["all"]["share_above"] <= 1
    near, far = (detail[name]["slices"] for name in ("near_informed", "elsewhere"))
    assert near + far == detail["all"]["slices"]
    assert len(detail["volumes"]) == 8
    assert report["mismatch"]["within_tolerance"] == 1
    assert report["quality"]["n_held_out"] == 1


class Copier(FakeGenerator):
    """Give back a training scan."""

    def __init__(self, image: np.ndarray) -> None:
        super().__init__()
        self.image = image

    def __call__(self, label_VDHW: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        volume = torch.from_numpy(2 * self.image.clip(0, 1) - 1)
        return volume[None].repeat(len(label_VDHW), 1, 1, 1)


def test_a_generator_that_copies_is_found_out(data: Path, weights: str, tmp_path: Path) -> None:
    real = PairSet.open(data)
    victim = real.ids("training")[0]
    out = tmp_path / "out"
    enhance(data, weights, out, times=1, generator=Copier(real.read(victim).image))
    detail = json.loads((out / "enhance.json").read_text())["copies"]["detail"]
    assert detail["all"]["share_above"] == 1
    assert {row["nearest"] for row in detail["volumes"].values()} == {victim}


def test_nothing_half_written_when_the_weights_are_bad(
    data: Path, weights: str, tmp_path: Path
) -> None:
    with pytest.raises(MedpairError, match="NaN in the image"):
        enhance(data, weights, tmp_path / "out", generator=FakeGenerator(broken=True))
    assert PairSet.open(tmp_path / "out").ids() == ()
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"times": 0}, "--times: 0"),
        ({"informed": "own"}, "--informed: 'own'"),
        ({"informed": "generated"}, "hold no slice generator"),
        ({"schema": "lesion1"}, "weights are for 'lesion1'"),
        ({"batch_volumes": 0}, "batch_volumes: 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    data: Path, weights: str, tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    with pytest.raises(MedpairError, match=part):
        enhance(data, weights, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()
