"""The volume stage of a pipeline, V volumes, D, H, W volume size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.data.datasets import PairSet, load_arrays
from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from gem3d.informed import BodyRule
from gem3d.scans import open_scans
from gem3d.stage import GeneratedSlices, VolumeStage, slice_source
from tests.gem3d.fake_generator import FakeGenerator, fake_slices

SIZE = (16, 20, 18)
LOOSE = BodyRule(tolerance=1e9)


@pytest.fixture(scope="module")
def masks() -> torch.Tensor:
    data = load_arrays(f"phantom:brain4:{'x'.join(map(str, SIZE))}:3", "training")
    return torch.stack([torch.as_tensor(label) for label in data.labels])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    write_phantom_set(folder, "brain4", SIZE, 5, holdout=0.2)
    return folder


def batch_of(masks: torch.Tensor, **changes: Any) -> PairBatch:
    batch = PairBatch((3, 4, 5), 7, load_schema("brain4"), (4.0,) * 3, SIZE, None, masks)
    return replace(batch, **changes)


def stage_of(generator: Any = None, **kw: Any) -> VolumeStage:
    return VolumeStage(generator or FakeGenerator(), "brain4", **kw)


def test_volumes_get_images_that_start_from_other_peoples_slices(
    masks: torch.Tensor, reference: Path
) -> None:
    fake = FakeGenerator()
    made = stage_of(fake, reference_dir=reference)(batch_of(masks))
    assert made.label_VDHW is masks
    assert made.image_VDHW is not None
    assert made.image_VDHW.shape == masks.shape
    assert fake.calls == [(3, 4, 5)]
    assert made.start == tuple(slice_.index for slice_ in fake.informed)
    assert made.joints == tuple(fake.joints(SIZE[0], start) for start in made.start)
    scans = {scan.id: scan for scan in open_scans(reference).of("training")}
    for slice_, label in zip(fake.informed, masks, strict=True):
        assert not slice_.impose
        assert label[slice_.index].any()
        known = torch.as_tensor(scans[slice_.source].image) * 2 - 1  # no held-back scan
        assert (known == slice_.image_HW).flatten(1).all(1).any()


def test_without_reference_slices_are_generated(masks: torch.Tensor) -> None:
    fake = FakeGenerator()
    stage_of(fake, slices=fake_slices, rule=LOOSE)(batch_of(masks))
    assert [slice_.source for slice_ in fake.informed] == ["generated"] * 3
    for slice_ in fake.informed:
        expected = fake_slices([0.5], SIZE[1:], volumes=[0], seed=0)[0]
        assert torch.equal(slice_.image_HW, expected)


@pytest.mark.parametrize("how", ["cross", "generated"])
def test_a_volume_does_not_change_with_its_neighbours(
    how: str, masks: torch.Tensor, reference: Path
) -> None:
    words = {"reference_dir": reference} if how == "cross" else {"slices": fake_slices}
    stage = stage_of(**words)
    together = stage(batch_of(masks))
    alone = stage(batch_of(masks[1:2], volumes=(4,)))
    assert together.image_VDHW is not None
    assert alone.image_VDHW is not None
    assert torch.equal(together.image_VDHW[1:2], alone.image_VDHW)
    assert together.start is not None
    assert (together.start[1],) == alone.start
    assert stage(batch_of(masks, seed=8)).start != together.start
    twelve = stage(batch_of(masks[:1].repeat(12, 1, 1, 1), volumes=tuple(range(12)))).start
    assert twelve is not None
    assert len(set(twelve)) > 2  # one mask, a start of its own for each volume


def test_a_stage_without_any_informed_slice_is_refused() -> None:
    with pytest.raises(MedpairError, match=r"no slice generator; give a pair set .* reference_dir"):
        stage_of()


def test_a_reference_without_training_scans_is_refused(tmp_path: Path, reference: Path) -> None:
    source, empty = PairSet.open(reference), tmp_path / "held_back"
    made = PairSet.create(empty, source.schema, source.spacing, source.size, source.intensity)
    name = source.ids("validation")[0]
    made.write(source.read(name), {"split": "validation"})
    for slices in (None, fake_slices):
        with pytest.raises(MedpairError, match="has no training scan; want at least one"):
            stage_of(reference_dir=empty, slices=slices)


def test_a_reference_of_another_schema_is_refused(tmp_path: Path) -> None:
    write_phantom_set(tmp_path / "t", "thorax7", (16, 16, 16), 2)
    with pytest.raises(MedpairError, match="schema 'thorax7', the weights are for 'brain4'"):
        stage_of(reference_dir=tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_VDHW": None}, r"no masks; put a mask stage before it or give --data"),
        ({"schema": load_schema("thorax7")}, r"schema 'thorax7', its weights are for 'brain4'"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, masks: torch.Tensor
) -> None:
    fake = FakeGenerator()
    with pytest.raises(MedpairError, match=message) as error:
        stage_of(fake, slices=fake_slices)(batch_of(masks, **changes))
    assert "\n" not in str(error.value)
    assert not fake.calls


# ---- generated slices


def test_generated_slices_have_the_masks_size_and_keys(make: Any) -> None:
    source = GeneratedSlices(make.model(), make.schedule, num_steps=2, precision="fp32")
    words: dict[str, Any] = {"volumes": [3, 4], "seed": 7}
    made = source([0.2, 0.6], (15, 18), **words)
    assert made.shape == (2, 15, 18)
    assert made.abs().max() <= 1
    alone = source([0.6], (15, 18), volumes=[4], seed=7)
    torch.testing.assert_close(alone, made[1:], atol=1e-4, rtol=0)
    assert not torch.equal(source([0.2, 0.6], (15, 18), **words, attempt=1), made)


def test_weights_without_a_slice_generator_generate_no_slices(make: Any) -> None:
    model = make.model(slice_generator=False)
    assert slice_source(model, make.schedule, "v", 2) is None
    found = slice_source(make.model(), make.schedule, "v", 2)
    assert found is not None
    assert found.num_steps == 2
    with pytest.raises(MedpairError, match=r"no slice generator; use 'cross'"):
        GeneratedSlices(model, make.schedule)([0.5], (16, 16), volumes=[0], seed=0)


def test_real_networks_fill_a_batch(make: Any, masks: torch.Tensor) -> None:
    generator = make.generator()
    slices = slice_source(generator.network, make.schedule, "v", 1)
    made = VolumeStage(generator, "brain4", slices, rule=LOOSE)(batch_of(masks))
    assert made.image_VDHW is not None
    assert made.image_VDHW.shape == masks.shape
    assert torch.isfinite(made.image_VDHW).all()


def test_nobody_informs_the_own_mask(reference: Path) -> None:
    scans = open_scans(reference).of("training")
    given = torch.from_numpy(np.stack([scan.label for scan in scans] * 4))
    fake = FakeGenerator()
    stage_of(fake, reference_dir=reference)(batch_of(given, volumes=tuple(range(len(given)))))
    sources = [slice_.source for slice_ in fake.informed]
    persons = {scan.id: scan.person for scan in scans}
    owners = [scan.person for scan in scans] * 4
    assert all(persons[a] != b for a, b in zip(sources, owners, strict=True))
