"""Intensities per label: known distributions, known shifts, known orders."""

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.intensity import intensity_error, intensity_order, label_intensity


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
