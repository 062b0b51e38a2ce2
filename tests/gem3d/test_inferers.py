"""Held-back masks with informed slices, V volumes, D, H, W volume size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader

from common.data.datasets import Pair, PairSet, load_arrays
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from gem3d.inferers import InformedPairs, VolumeInferer
from gem3d.informed import BodyRule
from gem3d.stage import slice_source
from gem3d.volumes import to_image
from tests.gem3d.fake_generator import fake_slices

SIZE = (16, 20, 18)
PHANTOM = "phantom:brain4:16x20x18:3"
LOOSE = BodyRule(tolerance=1e9)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms; the first training person has a second scan."""
    folder = tmp_path_factory.mktemp("set")
    write_phantom_set(folder, "brain4", SIZE, 5, holdout=0.2)
    pairs = PairSet.open(folder)
    first = pairs.read(pairs.ids("training")[0])
    twin = Pair("twin", first.image, first.label, first.affine)
    pairs.write(twin, {"split": "training", "person": pairs.person(first.id)})
    return folder


def pairs_of(data: str | Path, split: str | None = "validation", **kw: Any) -> InformedPairs:
    return InformedPairs(load_arrays(data, split), str(data), "brain4", 6, **kw)


@pytest.mark.parametrize(("index", "expected"), [(None, 8), (3, 3), (0, 0)])
def test_own_slices_are_those_of_the_scan(index: int | None, expected: int, data: Path) -> None:
    found = pairs_of(data, index=index)
    item = found[0]
    assert len(found) == len(found.data.ids)
    assert item["index"] == expected
    assert item["source"] == item["id"] == found.data.ids[0]
    assert torch.equal(item["slice"], to_image(found.data.images[0])[expected])
    np.testing.assert_array_equal(item["image"][0], found.data.labels[0])
    assert item["image"].shape == item["label"].shape == (1, *SIZE)
    assert 0 <= item["label"].min() <= item["label"].max() <= 1


def test_nobody_informs_himself(data: Path) -> None:
    """Not by another scan of the same person either."""
    source = PairSet.open(data)
    for seed in range(12):
        found = pairs_of(data, None, informed="cross", seed=seed, rule=LOOSE)
        for number, name in enumerate(found.data.ids):
            chosen = found.choose(number)
            assert source.person(chosen.source) != source.person(name)
            assert chosen.source in source.ids("training")
            assert found[number]["source"] == chosen.source  # the same whenever it is asked


def test_phantoms_inform_each_other_too() -> None:
    found = pairs_of(PHANTOM, informed="cross", rule=LOOSE)
    training = load_arrays(PHANTOM, "training").ids
    assert all(found.choose(n).source in training for n in range(len(found)))


def test_generated_slices_are_drawn_per_volume(data: Path) -> None:
    chosen = pairs_of(data, informed="generated", slices=fake_slices, rule=LOOSE).choose(0)
    assert chosen.source == "generated"
    assert torch.equal(chosen.image_HW, fake_slices([0.5], SIZE[1:], volumes=[0], seed=0)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"informed": "mine"}, r"informed: 'mine'; want one of own, cross, generated"),
        ({"informed": "generated"}, r"no slice generator; use 'own' or 'cross'"),
        ({"index": 16}, r"slice: 16; want 0\.\.15"),
        ({"index": -1}, r"slice: -1; want 0\.\.15"),
        ({"informed": "cross", "impose": True}, "impose: True with informed 'cross'; want False"),
    ],
)
def test_pairs_that_cannot_be_say_so(changes: dict[str, Any], message: str, data: Path) -> None:
    with pytest.raises(MedpairError, match=message) as error:
        pairs_of(data, **changes)
    assert "\n" not in str(error.value)


def test_data_of_another_schema_are_refused() -> None:
    arrays = load_arrays("phantom:thorax7:16x16x16:1", "validation")
    with pytest.raises(MedpairError, match=r"schema 'thorax7' .*the config is for 'brain4'"):
        InformedPairs(arrays, "phantom:thorax7:16x16x16:1", "brain4", 6)


@pytest.mark.parametrize("impose", [False, True])
def test_the_inferer_makes_what_the_generator_makes(impose: bool, make: Any) -> None:
    generator = make.generator()
    dataset = pairs_of(PHANTOM, impose=impose)
    (batch,) = DataLoader(dataset, batch_size=len(dataset))
    words = (batch["slice"], batch["index"], batch["number"], batch["impose"])
    inferer = VolumeInferer(generator, seed=4)
    made = inferer(batch["image"].float(), generator.network, *words)
    label = torch.stack([torch.as_tensor(label) for label in dataset.data.labels])
    informed = [dataset.choose(number) for number in range(len(dataset))]
    expected = generator(label, informed, volumes=range(len(label)), seed=4)
    assert torch.equal(made[:, 0], expected)
    assert all(slice_.impose is impose for slice_ in informed)


def test_without_slices_the_inferer_generates_them(make: Any) -> None:
    """As MONAI Label calls it: with a mask and its own copy of the network."""
    generator = make.generator()
    network = copy.deepcopy(generator.network)
    source = slice_source(network, make.schedule, "v", 1)
    dataset = pairs_of(PHANTOM, informed="generated", slices=source, rule=LOOSE, seed=4)
    label = dataset[0]["image"][None]
    made = VolumeInferer(generator, 4, source, LOOSE)(label.float(), network)
    expected = generator(label[:, 0], [dataset.choose(0)], volumes=[0], seed=4)
    assert torch.equal(made[:, 0], expected)
    with pytest.raises(MedpairError, match="the weights hold no slice generator"):
        VolumeInferer(generator)(label.float(), network)
    with pytest.raises(MedpairError, match="one without the other"):
        VolumeInferer(generator, 4, source)(label.float(), network, torch.zeros(1, *SIZE[1:]))


def test_masks_with_fractions_are_refused(make: Any) -> None:
    generator = make.generator()
    label = torch.full((1, 1, *SIZE), 0.5)
    with pytest.raises(MedpairError, match=r"label: value 0\.5, wanted whole numbers"):
        VolumeInferer(generator)(
            label, generator.network, torch.zeros(1, *SIZE[1:]), [3], [0], [False]
        )


def test_generated_slices_of_real_networks(make: Any) -> None:
    source = slice_source(make.model(), make.schedule, "v", 1)
    found = pairs_of(PHANTOM, informed="generated", slices=source, rule=LOOSE)
    assert found[0]["slice"].shape == SIZE[1:]
