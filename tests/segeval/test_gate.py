"""The gate: real pairs pass, each planted fault is named, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.anatomy import check, clean_up
from common.data.labels import LabelSchema
from common.data.pairs import PairBatch
from common.data.phantom import make_phantom
from common.engines.weights import read_card
from common.errors import MedpairError
from common.io.atomic import write_json
from common.stages import open_stage, weights_path
from segeval.gate import Gate, Limits
from segeval.ranges import Ranges, measure_ranges, ranges_path, read_ranges, write_ranges

SIZE = (24, 24, 24)
SPACING = (4.0, 4.0, 4.0)
VALUES = np.array([0.0, 0.5, 0.65, 0.8, 0.25, 0.35], np.float32)
"""Intensity of each label: an image tells its mask."""


def draw(label: np.ndarray) -> np.ndarray:
    return np.asarray(VALUES[label])


def segment(image_VDHW: Tensor) -> Tensor:
    unit = (image_VDHW[..., None] + 1) / 2
    return (unit - torch.from_numpy(VALUES)).abs().argmin(dim=-1).byte()


@pytest.fixture(scope="module")
def labels(schema: LabelSchema) -> list[np.ndarray]:
    made = [clean_up(make_phantom(schema, SIZE, seed)[1], schema) for seed in range(5)]
    assert all(rule.passed for label in made for rule in check(label, schema))
    return made


@pytest.fixture(scope="module")
def ranges(schema: LabelSchema, labels: list[np.ndarray]) -> Ranges:
    return measure_ranges([draw(label) for label in labels], labels, schema, SPACING, "tiny")


@pytest.fixture(scope="module")
def gate(ranges: Ranges, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    folder = tmp_path_factory.mktemp("weights")
    write_json(folder / "model_ranges.json", {"format": "medpair-ranges-1", **vars(ranges)})
    return Gate(segment, str(folder / "model.pt"))


def batch_of(schema: LabelSchema, image: np.ndarray, label: np.ndarray) -> PairBatch:
    tensors = torch.from_numpy(label)[None], torch.from_numpy(2 * image - 1)[None]
    return PairBatch((0,), 0, schema, SPACING, SIZE, None, *tensors)


def said(gate: Gate, schema: LabelSchema, image: np.ndarray, label: np.ndarray) -> list[str]:
    judged = gate(batch_of(schema, image, label))
    assert judged.faults is not None
    return [line.split(":")[0] for line in judged.faults[0]]


def test_real_pairs_pass(gate: Gate, schema: LabelSchema, labels: list[np.ndarray]) -> None:
    for label in labels:
        assert said(gate, schema, draw(label), label) == []


def test_a_batch_is_judged_volume_by_volume(
    gate: Gate, schema: LabelSchema, labels: list[np.ndarray]
) -> None:
    one = batch_of(schema, draw(labels[0]), labels[0])
    assert one.label_VDHW is not None
    assert one.image_VDHW is not None
    both = replace(
        one,
        volumes=(0, 1),
        label_VDHW=one.label_VDHW.repeat(2, 1, 1, 1),
        image_VDHW=torch.cat([one.image_VDHW, 0 * one.image_VDHW]),
    )
    judged = gate(both)
    assert judged.faults is not None
    assert judged.faults[0] == ()
    assert judged.faults[1] != ()
    assert judged.image_VDHW is both.image_VDHW


def test_nan(gate: Gate, schema: LabelSchema, labels: list[np.ndarray]) -> None:
    for wrong in (np.nan, np.inf):
        image = draw(labels[0])
        image[3, 4, 5] = wrong
        assert said(gate, schema, image, labels[0]) == ["image"]


def test_doubled_intensities(gate: Gate, schema: LabelSchema, labels: list[np.ndarray]) -> None:
    found = said(gate, schema, 2 * draw(labels[0]), labels[0])
    assert {"median of cortex", "median of white_matter", "alignment"} <= set(found)


def test_a_missing_label(gate: Gate, schema: LabelSchema, labels: list[np.ndarray]) -> None:
    label = np.where(labels[0] == 4, np.uint8(3), labels[0])
    batch = gate(batch_of(schema, draw(label), label))
    assert batch.faults is not None
    lines = batch.faults[0]
    assert "anatomy: present of csf 0, >= 1" in lines
    assert any(line.startswith("share of csf: 0, in ") for line in lines)


def test_a_mask_moved_by_four_voxels(
    gate: Gate, schema: LabelSchema, labels: list[np.ndarray]
) -> None:
    label = np.roll(np.pad(labels[0][2:-2], ((2, 2), (0, 0), (0, 0))), 2, axis=0)
    image = draw(np.roll(label, -4, axis=0))
    assert "alignment" in said(gate, schema, image, label)
    lenient = Gate.__new__(Gate)
    lenient.__dict__ = {**gate.__dict__, "limits": Limits(dice=0.0)}
    assert "alignment" not in said(lenient, schema, image, label)


def test_an_anatomy_in_pieces(gate: Gate, schema: LabelSchema, labels: list[np.ndarray]) -> None:
    label = labels[0].copy()
    label[:, :, 11:13] = 0  # two half brains
    batch = gate(batch_of(schema, draw(label), label))
    assert batch.faults is not None
    assert any(line.startswith("anatomy: components of ") for line in batch.faults[0])


def test_a_head_too_small(gate: Gate, schema: LabelSchema, labels: list[np.ndarray]) -> None:
    label = np.zeros_like(labels[0])
    label[6:18, 6:18, 6:18] = labels[0][::2, ::2, ::2]
    assert "volume in mm3" in said(gate, schema, draw(label), label)


def test_an_empty_mask(gate: Gate, schema: LabelSchema) -> None:
    label = np.zeros(SIZE, np.uint8)
    found = said(gate, schema, draw(label), label)
    assert {"anatomy", "volume in mm3"} <= set(found)


def test_the_margins_are_those_of_the_limits(
    gate: Gate, schema: LabelSchema, labels: list[np.ndarray], ranges: Ranges
) -> None:
    """All medians are equal in the scans, so a shift passes up to the margin and not beyond."""
    assert all(low == high for low, high in ranges.median.values())
    passes, fails = (
        said(gate, schema, np.where(labels[1] > 0, draw(labels[1]) + d, 0), labels[1])
        for d in (0.05, 0.15)
    )
    assert not [line for line in passes if line.startswith("median")]
    assert len([line for line in fails if line.startswith("median")]) == 5


def test_ranges_of_other_pairs_are_refused(
    gate: Gate, schema: LabelSchema, labels: list[np.ndarray]
) -> None:
    batch = batch_of(schema, draw(labels[0]), labels[0])
    for changes in ({"size": (12, 24, 24)}, {"spacing": (2.0, 4.0, 4.0)}):
        with pytest.raises(MedpairError, match="leave the gate out"):
            gate(replace(batch, **changes))
    with pytest.raises(MedpairError, match="no images"):
        gate(replace(batch, image_VDHW=None))


def test_limits_outside_their_range_are_refused() -> None:
    for wrong in ({"median": -1}, {"volume": 1}, {"dice": 2}):
        with pytest.raises(MedpairError, match="correct the config"):
            Limits(**wrong)


def test_ranges_come_back_from_their_file(tmp_path: Path) -> None:
    path = write_ranges("phantom:brain4:16x16x16:4", str(tmp_path), "tiny")
    assert path == ranges_path(tmp_path / "model.pt")
    found = read_ranges(path)
    assert (found.schema, found.preset, found.size, found.scans) == (
        "brain4",
        "tiny",
        (16, 16, 16),
        4,
    )
    assert set(found.fraction) == {"cortex", "subcortical_gm", "white_matter", "csf"}
    assert all(low <= high for low, high in (*found.median.values(), *found.fraction.values()))


def test_missing_damaged_and_small_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match=r"ranges\.yaml on the scans, or use --no-gate"):
        Gate(segment, str(tmp_path / "model.pt"))
    (tmp_path / "model_ranges.json").write_text('{"format": "medpair-ranges-1", "size": 3}')
    with pytest.raises(MedpairError, match="no ranges that medpair wrote"):
        read_ranges(tmp_path / "model_ranges.json")
    with pytest.raises(MedpairError, match=r"2 scans .* wanted at least 4"):
        write_ranges("phantom:brain4:16x16x16:2", str(tmp_path), "tiny")


def test_the_gate_that_ships_opens_as_a_stage() -> None:
    stage = open_stage("segmentation_eval", "tiny")
    assert isinstance(stage.run, Gate)
    assert stage.run.ranges.size == (48, 40, 40)
    weights = weights_path("segmentation_eval", "tiny")
    assert read_card(weights)["schema"] == stage.run.ranges.schema
    assert set(stage.identity) == {"bundle", "weights_sha256", "ranges_sha256", "limits"}
    image, label = make_phantom("brain4", (48, 40, 40), 0)  # no brain of OASIS
    batch = PairBatch((0,), 0, *_phantom_batch(image, label))
    judged = stage.run(batch)
    assert judged.faults is not None
    assert judged.faults[0] != ()


def _phantom_batch(image: np.ndarray, label: np.ndarray) -> tuple[object, ...]:
    from common.data.labels import load_schema

    tensors = torch.from_numpy(label)[None], torch.from_numpy(2 * image.clip(0, 1) - 1)[None]
    return load_schema("brain4"), (4.0, 4.0, 4.0), (48, 40, 40), None, *tensors
