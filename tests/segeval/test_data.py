from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from common.data.datasets import Arrays
from common.engines.batches import iteration_generator
from common.errors import MedpairError
from segeval.augment import AugmentRanges
from segeval.data import ScanBatches, Scans, draw_part

Make = Callable[..., Arrays]


def test_items_are_what_monai_engines_expect(make_arrays: Make) -> None:
    data = make_arrays((4, 5, 6), (4, 5, 6))
    data.images[1][0, 0] = 1.7  # percentile normalisation does not clip
    scans = Scans(data, "brain4", 6)
    assert len(scans) == 2
    item = scans[1]
    assert item["id"] == "001"
    assert item["image"].shape == item["label"].shape == (1, 4, 5, 6)
    assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.uint8)
    assert float(item["image"].max()) == 1.0
    assert np.array_equal(item["label"][0].numpy(), data.labels[1])


@pytest.mark.parametrize(("name", "num_classes"), [("thorax7", 6), ("brain4", 5)])
def test_data_of_another_schema_are_refused(make_arrays: Make, name: str, num_classes: int) -> None:
    wanted = rf"'brain4' with 6 classes, the config of '{name}' with {num_classes}; set"
    with pytest.raises(MedpairError, match=wanted):
        Scans(make_arrays((4, 4, 4)), name, num_classes)


def test_batches_depend_on_their_generator_alone(make_arrays: Make) -> None:
    scans = Scans(make_arrays(*[(8, 8, 8)] * 3), "brain4", 6)
    draws = [ScanBatches(scans, 2, AugmentRanges()) for _ in range(2)]
    draws[0](iteration_generator(0, 3))  # what was drawn before does not count
    first, second = (draw(iteration_generator(0, 7)) for draw in draws)
    assert first["image"].shape == first["label"].shape == (2, 1, 8, 8, 8)
    assert all(torch.equal(first[key], second[key]) for key in ("image", "label"))
    other = draws[0](iteration_generator(0, 8))
    assert not torch.equal(first["image"], other["image"])


def test_smaller_volumes_are_padded_around(make_arrays: Make) -> None:
    scans = Scans(make_arrays((4, 6, 8), (5, 3, 8)), "brain4", 6)
    draw = ScanBatches(scans, 8)
    batch = draw(iteration_generator(0, 0))
    assert batch["image"].shape == (8, 1, 5, 6, 8)
    assert torch.allclose(batch["image"] * 5, batch["label"].float())
    smaller = torch.from_numpy(scans.data.labels[1])
    found = [one for one in batch["label"][:, 0] if torch.equal(one[:, 1:4], smaller)]
    assert 0 < len(found) < 8
    assert not found[0][:, [0, 4, 5]].any()


def test_parts_are_cut_out_where_labels_are(make_arrays: Make) -> None:
    label = torch.zeros(20, 16, 12, dtype=torch.uint8)
    label[17, 3, 9] = 4
    draws = [draw_part(label, (5, 5, 20), iteration_generator(0, i)) for i in range(200)]
    sizes = {tuple(part.stop - part.start for part in draw) for draw in draws}
    assert sizes == {(5, 5, 12)}
    assert all(draw[0].stop <= 20 and draw[1].stop <= 16 for draw in draws)
    hits = sum(bool(label[draw].any()) for draw in draws) / 200
    assert 0.45 < hits < 0.7  # half of them, and a few by chance
    assert len({draw[0].start for draw in draws}) == 16  # every place is reached
    empty = draw_part(torch.zeros(8, 8, 8), (4, 4, 4), iteration_generator(0, 0))
    assert [part.stop - part.start for part in empty] == [4, 4, 4]


def test_batches_of_parts_keep_image_and_mask_together(make_arrays: Make) -> None:
    scans = Scans(make_arrays(*[(8, 9, 10)] * 3), "brain4", 6)
    batch = ScanBatches(scans, 4, None, (4, 4, 16))(iteration_generator(0, 0))
    assert batch["image"].shape == (4, 1, 4, 4, 10)
    assert torch.allclose(batch["image"] * 5, batch["label"].float())
