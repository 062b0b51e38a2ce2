from __future__ import annotations

import numpy as np
import pytest

from common.data.labels import LabelSchema, load_schema
from common.errors import MedpairError
from segeval.scores import score_masks, summarise

SPACING = (4.0, 2.0, 1.0)


def block(low: int, high: int, label: int = 1) -> np.ndarray:
    """A mask with a block of one label, low..high along D."""
    mask = np.zeros((20, 12, 12), np.uint8)
    mask[low:high, 3:9, 3:9] = label
    return mask


def test_equal_masks_agree_wholly(schema: LabelSchema) -> None:
    mask = block(4, 10)
    scores = score_masks(mask, mask, schema, SPACING, 4.0)["cortex"]
    assert scores == {"dice": 1.0, "hd95_mm": 0.0, "surface_dice": 1.0}


def test_a_shift_counts_in_mm(schema: LabelSchema) -> None:
    """Blocks of 10 slices, 5 apart: Dice 0.5, and 5 slices of 4 mm between the far faces."""
    pair = block(2, 12), block(7, 17)
    scores = score_masks(*pair, schema, SPACING, 4.0)["cortex"]
    assert scores["dice"] == pytest.approx(0.5)
    assert scores["hd95_mm"] == pytest.approx(20.0)
    thrice = score_masks(*pair, schema, (12.0, 2.0, 1.0), 12.0)["cortex"]
    assert thrice["hd95_mm"] == pytest.approx(60.0)


def test_surfaces_agree_up_to_the_tolerance(schema: LabelSchema) -> None:
    pair = block(4, 10), block(5, 11)  # a slice apart: 4 mm
    assert score_masks(*pair, schema, SPACING, 4.0)["cortex"]["surface_dice"] == 1.0
    below = score_masks(*pair, schema, SPACING, 3.9)["cortex"]["surface_dice"]
    assert isinstance(below, float)
    assert 0.5 < below < 1.0


def test_a_label_that_is_in_neither_mask_has_no_score(schema: LabelSchema) -> None:
    scores = score_masks(block(4, 10), block(4, 10), schema, SPACING, 4.0)["csf"]
    assert set(scores.values()) == {"not computed: the label is in neither mask"}


@pytest.mark.parametrize("predicted", [True, False])
def test_a_label_that_is_in_one_mask_does_not_agree(schema: LabelSchema, predicted: bool) -> None:
    masks = [block(4, 10), np.zeros((20, 12, 12), np.uint8)]
    scores = score_masks(*masks[:: 1 if predicted else -1], schema, SPACING, 4.0)["cortex"]
    which = "real" if predicted else "predicted"
    assert scores["hd95_mm"] == f"not computed: the label is not in the {which} mask"
    assert (scores["dice"], scores["surface_dice"]) == (0.0, 0.0)


def test_without_a_tolerance_there_is_dice_alone(schema: LabelSchema) -> None:
    scores = score_masks(block(4, 10), block(4, 10), schema, None, None)
    assert all(set(values) == {"dice"} for values in scores.values())


def test_means_leave_out_what_was_not_computed(schema: LabelSchema) -> None:
    both = block(4, 10) + block(12, 14, 4)
    pairs = {"a": (block(4, 10), both), "b": (block(4, 10), block(4, 10)), "c": (both, both)}
    cases = {name: score_masks(*pair, schema, SPACING, None) for name, pair in pairs.items()}
    report = summarise(cases, schema)
    assert report["labels"]["csf"]["dice"] == pytest.approx(0.5)  # 0 in a, none in b, 1 in c
    assert report["labels"]["brain"]["dice"] == "not computed: no case has a number"
    assert report["mean_over"] == ["cortex", "subcortical_gm", "white_matter", "csf"]
    assert report["mean"]["dice"] == pytest.approx((1.0 + 0.5) / 2)


def test_masks_on_other_grids_are_refused(schema: LabelSchema) -> None:
    with pytest.raises(MedpairError, match=r"shapes \(19, 12, 12\) and \(20, 12, 12\), one"):
        score_masks(block(4, 10)[1:], block(4, 10), schema, SPACING, None)


def test_the_labels_of_a_group_count_as_one() -> None:
    """Blocks of the whole tumour agree; within it enhancing and other tumour are exchanged."""
    schema = load_schema("brats3")
    real, predicted = block(4, 8, 2) + block(8, 12, 3), block(4, 8, 3) + block(8, 12, 2)
    scores = score_masks(predicted, real, schema, SPACING, 4.0)
    assert scores["WT"] == scores["TC"] == {"dice": 1.0, "hd95_mm": 0.0, "surface_dice": 1.0}
    assert scores["ET"] == scores["enhancing"]
    assert scores["ET"]["dice"] == 0.0
    shifted = score_masks(block(7, 17, 3), block(2, 12, 2), schema, SPACING, 4.0)
    assert shifted["TC"]["dice"] == pytest.approx(0.5)
    assert shifted["TC"]["hd95_mm"] == pytest.approx(20.0)
    assert shifted["ET"]["dice"] == 0.0


def test_groups_have_means_of_their_own() -> None:
    schema = load_schema("brats3")
    mask = block(4, 8, 2)
    report = summarise({"a": score_masks(mask, mask, schema, SPACING, None)}, schema)
    assert report["groups"]["TC"] == {"dice": 1.0}
    assert report["groups"]["ET"] == {"dice": "not computed: no case has a number"}
    assert report["groups_mean"] == {"dice": 1.0}
    assert set(report["labels"]) == {"edema", "non_enhancing", "enhancing", "brain"}
