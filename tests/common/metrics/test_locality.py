"""Locality: planted changes are found where they were planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data.labels import load_schema
from common.errors import MedpairError
from common.metrics.locality import edit_alignment, edited_region, locality, regional_change

SCHEMA = load_schema("brain4")
SIZE = (20, 18, 16)
LABEL = np.zeros(SIZE, np.uint8)
LABEL[2:18, 2:16, 2:14] = 3
EDITED = LABEL.copy()
EDITED[8:11, 8:11, 6:9] = 4
SOURCE = np.where(LABEL, 0.5, 0).astype(np.float32) + np.random.default_rng(0).uniform(
    0, 0.1, SIZE
).astype(np.float32)


def test_the_region_grows_in_mm() -> None:
    before, after = np.zeros((2, 9, 9, 9), np.uint8)
    after[4, 4, 4] = 1
    assert edited_region(before, after, (1, 1, 1), 0).sum() == 1
    assert edited_region(before, after, (1, 1, 1), 1).sum() == 7
    thick = edited_region(before, after, (3, 1, 1), 2)
    assert thick[4].sum() == thick.sum() == 13  # a disc: the next slice is 3 mm away
    assert not edited_region(before, before, (1, 1, 1), 5).any()
    with pytest.raises(MedpairError, match="draw the edit"):
        edited_region(before, after[1:], (1, 1, 1), 1)


def test_a_change_inside_is_seen_inside_only() -> None:
    region = edited_region(LABEL, EDITED, (1, 1, 1), 1)
    result = np.where(region, SOURCE + np.float32(0.2), SOURCE)
    found = locality(result, SOURCE, SOURCE, LABEL, EDITED, region)
    assert found["result_to_source"]["inside"]["mae"] == pytest.approx(0.2, abs=1e-6)
    assert found["result_to_source"]["outside"]["mae"] == 0
    assert found["result_to_source"]["inside"]["ssim"] < 0.95
    assert found["unedited_to_source"]["inside"] == {"mae": 0, "ssim": pytest.approx(1)}
    assert "no effect outside" in found["effect_ratio"]
    assert found["voxels"]["changed"] == 27


def test_the_models_own_error_is_told_from_the_effect() -> None:
    region = edited_region(LABEL, EDITED, (1, 1, 1), 0)
    unedited = SOURCE + np.float32(0.1)
    result = np.where(region, unedited + np.float32(0.3), unedited + np.float32(0.1))
    found = locality(result, SOURCE, unedited, LABEL, EDITED, region)
    for key, inside, outside in (
        ("unedited_to_source", 0.1, 0.1),
        ("result_to_unedited", 0.3, 0.1),
        ("result_to_source", 0.4, 0.2),
    ):
        assert found[key]["inside"]["mae"] == pytest.approx(inside, abs=1e-6)
        assert found[key]["outside"]["mae"] == pytest.approx(outside, abs=1e-6)
    assert found["effect_ratio"] == pytest.approx(3, abs=1e-4)


def test_an_empty_region_has_a_reason() -> None:
    nowhere = np.zeros(SIZE, bool)
    found = regional_change(SOURCE, SOURCE, {"nowhere": nowhere})
    assert str(found["nowhere"]["mae"]).startswith("not computed")
    assert str(found["nowhere"]["ssim"]).startswith("not computed")
    with pytest.raises(MedpairError, match="one grid"):
        regional_change(SOURCE, SOURCE[1:], {})


def by_level(image_VDHW: torch.Tensor) -> torch.Tensor:
    """Segment: dark background, csf below 0.4, white matter above."""
    unit = (image_VDHW + 1) / 2
    return torch.where(unit < 0.15, 0, torch.where(unit < 0.4, 4, 3)).to(torch.uint8)


@pytest.mark.parametrize(("shown", "edited", "before"), [(True, 1.0, 0.0), (False, 0.0, 1.0)])
def test_the_segmenter_says_whether_the_edit_is_shown(
    shown: bool, edited: float, before: float
) -> None:
    region = edited_region(LABEL, EDITED, (1, 1, 1), 2)
    csf = np.where(EDITED == 4, np.float32(0.25), SOURCE)
    found = edit_alignment(
        by_level, csf if shown else SOURCE, SOURCE, LABEL, EDITED, region, SCHEMA
    )
    assert found["changed"] == {
        "as_edited": edited,
        "as_before": before,
        "source_as_before": 1.0,
    }
    assert found["dice"]["csf"] == edited
    assert found["source_dice"]["white_matter"] == 1
    assert found["mean"]["source_dice"] == 1
