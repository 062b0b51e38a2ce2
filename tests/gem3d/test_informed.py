"""Informed slices: never one's own, at the same relative place, of a body that fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import MedpairError
from gem3d.informed import BodyRule, cross_slice, generated_slice, given_slice
from gem3d.scans import SourceScan
from tests.gem3d.fake_generator import fake_slices

H = W = 24


def bodies(radii: list[float]) -> np.ndarray:
    """A mask with a disc per slice."""
    y, x = np.mgrid[:H, :W]
    distance = np.hypot(y - H / 2, x - W / 2)
    return np.stack([(distance <= r).astype(np.uint8) for r in radii])


def scan(name: str, radii: list[float], person: str | None = None) -> SourceScan:
    label = bodies(radii)
    image = np.stack([np.full((H, W), k / 100, np.float32) for k in range(len(radii))])
    return SourceScan(name, person or name, "training", image, label, np.eye(4))


EVEN = [8.0] * 10
TARGET = bodies(EVEN)


@given(
    volume=st.integers(0, 2**20),
    seed=st.integers(0, 2**40),
    depths=st.lists(st.integers(3, 30), min_size=2, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_cross_is_another_person_at_the_same_relative_place(
    volume: int, seed: int, depths: list[int]
) -> None:
    pool = [scan(f"s{k}", [8.0] * d, f"p{k % 2}") for k, d in enumerate(depths)]
    found = cross_slice(TARGET, "p0", pool, seed=seed, volume=volume)
    record = found.record
    assert record["person"] == "p1"
    depth = depths[int(record["id"][1:])]
    assert record["slice"] == record["start"] * depth // len(TARGET)
    assert record["within_tolerance"]
    assert record["area_ratio"] == 1
    assert found.informed.index == record["start"]
    assert not found.informed.impose
    shown = (float(found.informed.image_HW[0, 0]) + 1) / 2
    assert shown == pytest.approx(record["slice"] / 100, abs=1e-6)
    assert record == cross_slice(TARGET, "p0", pool, seed=seed, volume=volume).record


def test_starts_and_references_vary_with_seed_and_volume() -> None:
    pool = [scan(f"s{k}", EVEN) for k in range(6)]
    drawn = {
        (c.record["start"], c.record["id"])
        for v in range(40)
        for c in [cross_slice(TARGET, "me", pool, seed=v % 2, volume=v)]
    }
    assert len({start for start, _ in drawn}) >= 8
    assert len({name for _, name in drawn}) == 6


def test_only_bodies_that_fit_are_drawn() -> None:
    pool = [scan("small", [5.0] * 10), scan("large", [11.0] * 10), scan("fits", [8.2] * 10)]
    ids = {cross_slice(TARGET, "me", pool, seed=0, volume=v).record["id"] for v in range(20)}
    assert ids == {"fits"}


def test_another_position_is_tried_before_a_misfit_is_taken() -> None:
    half = [5.0] * 5 + [8.0] * 5
    for volume in range(10):
        found = cross_slice(TARGET, "me", [scan("half", half)], seed=0, volume=volume)
        assert found.record["within_tolerance"]
        assert found.record["start"] >= 5


def test_where_nothing_fits_the_nearest_shape_is_recorded() -> None:
    pool = [scan("tiny", [2.0] * 10), scan("near", [6.0] * 10)]
    record = cross_slice(TARGET, "me", pool, seed=0, volume=0).record
    areas = [(bodies([r])[0] > 0).sum() for r in (6.0, 8.0)]
    assert record["id"] == "near"
    assert not record["within_tolerance"]
    assert record["area_ratio"] == pytest.approx(areas[0] / areas[1], abs=1e-4)


def test_rim_slices_are_no_starts() -> None:
    target = bodies([1.0, 2.0, *[8.0] * 6, 2.0, 1.0])
    starts = {
        cross_slice(target, "me", [scan("a", EVEN)], seed=0, volume=v).record["start"]
        for v in range(40)
    }
    assert starts == set(range(2, 8))


def test_a_generated_slice_is_drawn_again_until_it_fits() -> None:
    found = generated_slice(TARGET, fake_slices, seed=0, volume=3)
    assert found.record["within_tolerance"]  # discs of radius 2, 4, 6, 8
    assert found.record["kind"] == found.informed.source == "generated"
    worst = generated_slice(TARGET, fake_slices, seed=0, volume=3, rule=BodyRule(tries=2))
    assert not worst.record["within_tolerance"]
    assert worst.record["area_ratio"] == pytest.approx(0.25, abs=0.05)  # radius 4, not 2


def given_of(radius: float, **changes: object) -> object:
    body = bodies([radius])[0] > 0
    options = {"source": "mine", "position": 0.5} | changes
    return given_slice(TARGET, np.full((H, W), 0.5, np.float32), body, **options)


def test_a_given_slice_that_fits_keeps_its_place() -> None:
    found = given_of(8.0, impose=True)
    assert (found.informed.index, found.informed.impose) == (5, True)
    assert torch.equal(found.informed.image_HW, torch.zeros(H, W))


@pytest.mark.parametrize("depth", [7, 29, 48, 138])
def test_every_slice_of_a_volume_stands_for_itself(depth: int) -> None:
    label = np.broadcast_to(TARGET[:1], (depth, H, W))
    for number in range(depth):
        found = given_slice(
            label,
            np.zeros((H, W), np.float32),
            label[0] > 0,
            source="x",
            position=number / depth,
        )
        assert found.informed.index == number


def test_a_given_slice_that_is_off_is_refused_with_both_areas() -> None:
    small, wanted = ((bodies([r])[0] > 0).sum() for r in (5.0, 8.0))
    with pytest.raises(MedpairError) as caught:
        given_of(5.0)
    line = str(caught.value)
    assert str(small) in line
    assert str(wanted) in line
    assert "--allow-mismatch" in line
    assert not given_of(5.0, allow_mismatch=True).record["within_tolerance"]


def test_a_given_slice_may_stand_for_a_neighbour_that_fits() -> None:
    label = bodies([8.0, 8.0, 8.0, 8.0, 5.0, 5.0, 5.0, 8.0, 8.0, 8.0])
    body = bodies([8.0])[0] > 0
    image = np.zeros((H, W), np.float32)
    found = given_slice(label, image, body, source="x", position=0.5, reach=2)
    assert found.informed.index in (3, 7)
    with pytest.raises(MedpairError, match="within 15%"):
        given_slice(label, image, body, source="x", position=0.5, reach=1)


def test_bad_input_is_named() -> None:
    with pytest.raises(MedpairError, match="another person's"):
        cross_slice(TARGET, "me", [scan("a", EVEN, "me")], seed=0, volume=0)
    with pytest.raises(MedpairError, match="empty mask"):
        cross_slice(TARGET * 0, "me", [scan("a", EVEN)], seed=0, volume=0)
    with pytest.raises(MedpairError, match="one spacing and size"):
        cross_slice(TARGET[:, 1:], "me", [scan("a", EVEN)], seed=0, volume=0)
    with pytest.raises(MedpairError, match="body rule"):
        BodyRule(tolerance=0)
