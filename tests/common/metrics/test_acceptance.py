"""Acceptance of generated pairs: each item fails on the defect that it is for, and only then."""

import dataclasses

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.acceptance import demo_acceptance

PERSONS = [f"p{i}" for i in range(10)]


def paint(label: np.ndarray, dark: float = 0.2, bright: float = 0.8) -> np.ndarray:
    noise = np.random.default_rng(int(label.sum())).normal(0, 0.02, label.shape)
    return (np.array([0, dark, bright, 0.4])[label] + noise).astype(np.float32)


@pytest.fixture
def real(make_people):
    return make_people(10, 1)


def judge(pairs, real, schema, **options):
    images = [paint(label) for label in real]
    return demo_acceptance(pairs, real, images, PERSONS[: len(real)], schema, **options)


def verdicts(report) -> dict[str, object]:
    return {name: item["passed"] for name, item in report["items"].items()}


@pytest.fixture
def fresh(make_map):
    """A mask inside the real range that nobody has: between the real ones, moved away."""
    return make_map(dark=5, bright=4, shift=4)


def test_fresh_pairs_pass(real, fresh, schema) -> None:
    report = judge([(paint(fresh), fresh)] * 2, real, schema)
    assert report["passed"] is True
    assert report["n"] == 2
    assert set(verdicts(report)) == {
        "labels_present",
        "volume_fractions",
        "intensity_order",
        "novelty",
    }
    assert report["items"]["intensity_order"]["real_share"] == 1


def test_a_lost_label_fails_its_item(real, fresh, schema) -> None:
    lost = np.where(fresh == 2, 3, fresh).astype(np.uint8)
    report = judge([(paint(fresh), fresh), (paint(lost), lost)], real, schema)
    assert report["passed"] is False
    assert report["items"]["labels_present"]["failures"] == ["pair 1: label bright is absent"]
    assert report["items"]["labels_present"]["least_voxels"]["bright"] == 0
    assert report["items"]["intensity_order"]["passed"] is False


def test_a_label_that_may_be_absent_is_not_asked_for(real, fresh, schema) -> None:
    optional = dataclasses.replace(
        schema,
        labels=tuple(dataclasses.replace(m, required=m.name != "bright") for m in schema.labels),
    )
    lost = np.where(fresh == 2, 3, fresh).astype(np.uint8)
    assert judge([(paint(lost), lost)], real, optional)["items"]["labels_present"]["passed"] is True


def box_of(voxels: int) -> np.ndarray:
    """A body of 1,024 voxels (so that shares are exact): some are `dark`, and 50 `bright`."""
    flat = np.full(1024, 3, np.uint8)
    flat[:voxels] = 1
    flat[-50:] = 2
    return flat.reshape(8, 8, 16)


@pytest.mark.parametrize(
    ("voxels", "passes"), [(191, False), (192, True), (480, True), (481, False)]
)
def test_the_range_is_three_quarters_of_the_least_to_five_quarters_of_the_most(
    voxels, passes, schema
) -> None:
    real = [box_of(256), box_of(300), box_of(384)]
    item = judge([(paint(box_of(voxels)), box_of(voxels))], real, schema)["items"][
        "volume_fractions"
    ]
    assert item["passed"] is passes
    assert item["fractions"]["dark"] == pytest.approx(
        {"min": voxels / 1024, "max": voxels / 1024, "low": 192 / 1024, "high": 480 / 1024}
    )


def test_medians_out_of_order_fail(real, fresh, schema) -> None:
    pairs = [(paint(fresh), fresh), (paint(fresh, dark=0.8, bright=0.2), fresh)]
    report = judge(pairs, real, schema)
    assert verdicts(report) == {
        "labels_present": True,
        "volume_fractions": True,
        "intensity_order": False,
        "novelty": True,
    }
    assert [line[:7] for line in report["items"]["intensity_order"]["failures"]] == ["pair 1:"]


def test_a_copy_of_a_training_mask_fails_unless_people_are_as_alike(real, fresh, schema) -> None:
    distinct = [fresh, *[m for m in real if (m != real[0]).any()][:2]]
    report = judge([(paint(fresh), fresh)], distinct, schema)
    assert verdicts(report)["novelty"] is False
    assert report["items"]["novelty"]["max"] == 1 > report["items"]["novelty"]["reference"]
    assert "Dice 1.0 with real mask 0" in report["items"]["novelty"]["failures"][0]
    held = judge([(paint(fresh), fresh)], distinct, schema, trained_on=[False, True, True])
    assert verdicts(held)["novelty"] is True


def test_what_cannot_be_computed_does_not_pass(real, fresh, schema) -> None:
    bare = dataclasses.replace(schema, intensity_order=())
    report = judge([(paint(fresh), fresh)], real, bare)
    assert report["passed"] is False
    assert verdicts(report)["intensity_order"] == (
        "not computed: the schema names no intensity_order"
    )
    alone = judge([(paint(fresh), fresh)], real[:1], schema)
    assert verdicts(alone)["novelty"] == "not computed: needs real masks of at least 2 persons"


def test_bad_sets_are_refused(real, fresh, schema) -> None:
    with pytest.raises(MedpairError, match="pairs: 0 generated, 10 real images, 10 real masks"):
        judge([], real, schema)
    with pytest.raises(MedpairError, match="1 generated, 0 real images, 1 real masks"):
        demo_acceptance([(paint(fresh), fresh)], real[:1], [], ["a"], schema)
