"""Intensities per label: known distributions, known shifts, known orders."""

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.intensity import (
    intensity_distance,
    intensity_error,
    intensity_order,
    intensity_ranges,
    label_intensity,
)


@pytest.fixture
def pair(make_map):
    """An image whose median and interquartile range are known in each label: a ramp of values."""
    label = make_map(dark=4, bright=3)
    image = np.zeros(label.shape, np.float32)
    for label_id, (middle, width) in {1: (0.2, 0.1), 2: (0.8, 0.4), 3: (0.5, 0.0)}.items():
        count = int((label == label_id).sum())
        image[label == label_id] = np.linspace(middle - width, middle + width, count)
    return image, label


def test_median_and_spread_of_a_ramp(pair, schema) -> None:
    found = label_intensity(*pair, schema)
    assert found["dark"] == pytest.approx({"median": 0.2, "iqr": 0.1}, abs=1e-6)
    assert found["bright"] == pytest.approx({"median": 0.8, "iqr": 0.4}, abs=1e-6)
    assert found["body"] == pytest.approx({"median": 0.5, "iqr": 0.0}, abs=1e-6)


def test_error_of_a_scaled_and_shifted_image(pair, schema) -> None:
    image, label = pair
    found = intensity_error(image * 2 + 0.05, image, label, schema)
    assert found["dark"] == pytest.approx({"median": 0.25, "iqr": 0.1}, abs=1e-5)
    assert found["body"] == pytest.approx({"median": 0.55, "iqr": 0.0}, abs=1e-5)
    assert intensity_error(image, image, label, schema)["bright"] == {"median": 0, "iqr": 0}


def test_the_order_is_that_of_the_schema_or_the_one_given(pair, schema) -> None:
    image, label = pair
    assert intensity_order(image, label, schema)["passed"] is True
    assert intensity_order(-image, label, schema)["passed"] is False
    swapped = intensity_order(image, label, schema, ("dark", "bright", "body"))
    assert swapped["passed"] is False
    assert list(swapped["medians"]) == swapped["order"] == ["dark", "bright", "body"]
    assert intensity_order(image * 0, label, schema)["passed"] is False  # equal is not rising


def test_what_is_absent_is_said_to_be_absent(pair, schema) -> None:
    image, label = pair
    label = np.where(label == 2, 3, label).astype(np.uint8)
    assert label_intensity(image, label, schema)["bright"]["iqr"] == (
        "not computed: label bright is absent"
    )
    assert intensity_order(image, label, schema)["passed"] == (
        "not computed: a label of the order is absent"
    )
    assert isinstance(intensity_error(image, image, label, schema)["bright"]["median"], str)
    assert intensity_order(image, label, schema, ())["passed"] == (
        "not computed: the schema names no intensity_order"
    )


def test_bad_input_is_refused(pair, schema) -> None:
    image, label = pair
    with pytest.raises(MedpairError, match="pair them on one grid"):
        label_intensity(image[1:], label, schema)
    with pytest.raises(MedpairError, match="no label 'gray'"):
        intensity_order(image, label, schema, ("gray", "dark"))


def shifted(pair, shifts) -> list[tuple[np.ndarray, np.ndarray]]:
    image, label = pair
    return [((image + s).astype(np.float32), label) for s in shifts]


def test_medians_that_are_all_shifted_lie_that_far_from_the_real_ones(pair, schema) -> None:
    real = shifted(pair, [0.0, 0.02, 0.04, 0.06])
    made = shifted(pair, [0.5, 0.52])
    found = intensity_distance(made, real, list("abcd"), schema)
    assert set(found) == {"dark", "bright", "body"}
    for numbers in found.values():
        assert numbers["outside"] == 1
        assert numbers["distance"] == pytest.approx(0.48, abs=0.02)
        assert numbers["ratio"] == pytest.approx(numbers["distance"] / numbers["floor"])
        assert 0.02 <= numbers["floor"] <= 0.04


def test_real_images_of_known_persons_lie_at_the_floor(pair, schema) -> None:
    real = shifted(pair, [0.0, 0.02, 0.04, 0.06, 0.05, 0.01])
    persons = list("abcdee")
    found = intensity_distance(real, real, persons, schema, generated_persons=persons)
    assert found["dark"]["outside"] == 0
    assert found["dark"]["ratio"] == pytest.approx(1, abs=0.15)


def test_a_label_that_is_in_no_generated_mask_has_no_distance(pair, schema) -> None:
    image, label = pair
    bare = np.where(label == 2, 3, label).astype(np.uint8)
    found = intensity_distance([(image, bare)], shifted(pair, [0, 0.1]), ["a", "b"], schema)
    for key in ("distance", "ratio", "outside"):
        assert "absent" in found["bright"][key]
    assert found["dark"]["outside"] == 0
    with pytest.raises(MedpairError, match="persons: 1 for 2 real images"):
        intensity_distance([pair], [pair, pair], ["a"], schema)


def test_pairs_are_inside_where_real_medians_are_on_both_sides(pair, schema) -> None:
    image, label = pair
    bare = np.where(label == 2, 3, label).astype(np.uint8)  # no bright
    real = [(image + shift, label) for shift in (-0.05, 0.05)]
    made = [(image, label), (image + 0.04, label), (image + 0.2, label), (image, bare)]
    found = intensity_ranges(made, real, schema)
    dark, bright = found["labels"]["dark"], found["labels"]["bright"]
    assert (dark["low"], dark["high"]) == pytest.approx((0.15, 0.25))
    assert (dark["inside"], dark["n"], dark["n_real"]) == (0.75, 4, 2)
    assert (bright["inside"], bright["n"]) == (pytest.approx(2 / 3), 3)
    assert found["all_inside"] == 0.75


def test_labels_that_nobody_holds_have_no_range(pair, schema) -> None:
    image, label = pair
    empty = np.zeros_like(label)
    found = intensity_ranges([(image, label)], [(image, empty)], schema)
    assert found["labels"]["dark"]["inside"] == "not computed: N=0 real scans"
    assert str(found["all_inside"]).startswith("not computed")
    found = intensity_ranges([(image, empty)], [(image, label)], schema)
    assert found["labels"]["dark"]["inside"] == "not computed: N=0 generated pairs"
    assert found["labels"]["dark"]["low"] == pytest.approx(0.2, abs=1e-6)
    assert str(found["all_inside"]).startswith("not computed")
