"""Alignment: Dice of known segmenters, ratios to real scans, labels that are not there."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import MedpairError
from common.metrics.alignment import alignment, label_dice

LEVELS = np.array([0.0, 0.2, 0.9, 0.5], np.float32)


def image_of(label: np.ndarray) -> np.ndarray:
    return LEVELS[label]


def nearest_level(image_VDHW: Tensor) -> Tensor:
    """A segmenter that knows the intensity of every label, in [-1, 1]."""
    levels = torch.from_numpy(2 * LEVELS - 1)
    return (image_VDHW[..., None] - levels).abs().argmin(-1).byte()


def test_dice_counts_voxels(schema, make_map) -> None:
    label = make_map(dark=4, bright=3)
    moved = label.copy()
    moved[4:6, 4:8, 4:8] = 3  # half of `dark` is lost
    found = label_dice(moved, label, schema)
    assert found["dark"] == pytest.approx(2 * 32 / (32 + 64))
    assert found["bright"] == 1
    body = (label == 3).sum()
    assert found["body"] == pytest.approx(2 * body / (2 * body + 32))


def test_a_label_in_one_mask_scores_zero_and_in_neither_is_absent(schema, make_map) -> None:
    label = make_map()
    bare = np.where(label == 2, 3, label).astype(np.uint8)
    assert label_dice(bare, label, schema)["bright"] == 0
    assert label_dice(label, bare, schema)["bright"] == 0
    assert "neither" in label_dice(bare, bare, schema)["bright"]
    with pytest.raises(MedpairError, match="predict on the grid of the reference"):
        label_dice(label[1:], label, schema)


def test_images_that_show_their_masks_reach_the_real_dice(schema, make_people) -> None:
    real = make_people(3, 1)
    made = make_people(4, 2)
    images, scans = ([image_of(m) for m in maps] for maps in (made, real))
    report = alignment(nearest_level, images, made, scans, real, schema)
    assert (report["n"], report["n_real"], report["mean_over"]) == (4, 3, ["dark", "bright"])
    assert report["mean"] == {"dice": 1, "real_dice": 1, "ratio": 1}


def test_images_of_other_masks_fall_behind_the_real_dice(schema, make_map) -> None:
    masks = [make_map(4, 3, shift) for shift in (0, 1)]
    images = [image_of(m) for m in masks[::-1]]
    scans = [image_of(m) for m in masks]
    report = alignment(nearest_level, images, masks, scans, masks, schema)
    overlap = 3 / 4  # a shift by one of four voxels
    assert report["labels"]["dark"]["dice"] == pytest.approx(overlap)
    assert report["labels"]["dark"]["ratio"] == pytest.approx(overlap)


def test_the_segmenters_own_errors_are_divided_out(schema, make_map) -> None:
    def half_blind(image: Tensor) -> Tensor:
        found = nearest_level(image)
        found[:, 4:6][found[:, 4:6] == 1] = 3
        return found

    masks = [make_map(dark=4)]
    report = alignment(half_blind, [image_of(masks[0])], masks, [image_of(masks[0])], masks, schema)
    dark = report["labels"]["dark"]
    assert dark["dice"] == dark["real_dice"] == pytest.approx(2 / 3)
    assert dark["ratio"] == 1


def test_reasons_stand_where_there_is_no_ratio(schema, make_map) -> None:
    bare = [np.where(make_map() == 2, 3, make_map()).astype(np.uint8)]
    scans = [image_of(bare[0])]
    report = alignment(nearest_level, scans, bare, scans, bare, schema)
    assert report["labels"]["bright"]["ratio"] == (
        "not computed: the label is in neither mask of any image"
    )
    assert report["mean"]["dice"] == 1
    blind = alignment(lambda x: torch.zeros_like(x).byte(), scans, bare, scans, bare, schema)
    assert blind["labels"]["dark"]["ratio"] == "not computed: the segmenter fails on the real scans"


def test_bad_sets_are_refused(schema, make_map) -> None:
    label = make_map()
    with pytest.raises(MedpairError, match="0 real with 0 masks"):
        alignment(nearest_level, [image_of(label)], [label], [], [], schema)


def test_with_a_spacing_surfaces_are_compared_in_mm(schema, make_map) -> None:
    """A generated image whose dark cube lies 3 voxels of 2 mm off; the real scan is exact."""
    label, moved = make_map(dark=4, bright=3), make_map(dark=4, bright=3, shift=0)
    moved[moved == 1] = 3
    moved[4:8, 7:11, 4:8] = 1
    args = [image_of(moved)], [label], [image_of(label)], [label]
    report = alignment(nearest_level, *args, schema, (1.0, 2.0, 1.0))
    dark = report["labels"]["dark"]
    assert dark["hd95_mm"] == pytest.approx(6)
    assert dark["real_hd95_mm"] == 0
    assert dark["hd95_ratio"] == (
        "not computed: the segmenter is exact on the real scans: HD95 is 0"
    )
    assert report["labels"]["bright"]["hd95_mm"] == 0
    assert report["mean"]["hd95_mm"] == pytest.approx(3)
    assert "hd95_mm" not in alignment(nearest_level, *args, schema)["labels"]["dark"]


def test_a_label_that_is_not_found_has_no_surface(schema, make_map) -> None:
    label = make_map()
    bare = np.where(label == 2, 3, label).astype(np.uint8)
    args = [image_of(bare)], [label], [image_of(label)], [label]
    bright = alignment(nearest_level, *args, schema, (1.0, 1.0, 1.0))["labels"]["bright"]
    assert (bright["dice"], bright["ratio"]) == (0, 0)
    assert str(bright["hd95_mm"]).startswith("not computed")
