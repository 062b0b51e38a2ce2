"""The report of a mask generator, on toy masks and on real scans."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import find_objects

from common.data.anatomy import anatomy_report, check, clean_up
from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.data.views import to_dhw
from common.metrics.mask_report import evaluate_masks
from common.metrics.memorization import pairwise_dice

SPACING = (1.0, 1.0, 1.0)


def test_the_report_is_complete_and_can_be_written(schema, make_people) -> None:
    real, names = make_people(8, 1), [f"p{i}" for i in range(8)]
    known = [True] * 5 + [False] * 3
    report = evaluate_masks(make_people(6, 2), real, names, schema, SPACING, trained_on=known)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) == {"realism", "anatomy", "anatomy_real", "novelty", "novelty_mirrored"}
    assert report["realism"]["n_persons"] == 8
    assert report["novelty"]["n_training"] == 5
    assert report["novelty_mirrored"]["mirror"] is True
    assert report["novelty_mirrored"]["max"] >= report["novelty"]["max"]
    assert report["anatomy"]["n"] == 6


def test_it_can_be_written_when_labels_are_missing(schema, make_people) -> None:
    bare = [np.full_like(m, 3) for m in make_people(2)]
    report = evaluate_masks(bare, bare, ["a", "b"], schema, SPACING)
    json.dumps(report, allow_nan=False)
    assert report["novelty"]["max"].startswith("not computed: ")
    assert report["anatomy"]["all"] == 0


@pytest.fixture(scope="module")
def brains() -> dict[str, np.ndarray]:
    """Four real masks, two of one person, at 4 mm: sampled at voxel centres and centred."""
    folder = os.environ.get("MEDPAIR_DATA")
    if not folder:
        pytest.skip("MEDPAIR_DATA is not set: no real scans")
    if not (Path(folder) / "brain_oasis").is_dir():
        pytest.skip("MEDPAIR_DATA holds no brain_oasis")
    masks, schema = {}, load_schema("brain4")
    for name in ("1000", "1004", "1024", "1036"):
        paths = [
            Path(folder) / "brain_oasis" / f"{name}_{kind}.nii.gz" for kind in ("labels", "T1")
        ]
        ids, image = (
            np.asarray(nib.as_closest_canonical(nib.load(p)).dataobj).squeeze() for p in paths
        )
        box = find_objects((image > 0).astype(np.uint8))[0]
        ids, image = ids[box][2::4, 2::4, 2::4], image[box][2::4, 2::4, 2::4]
        label = schema.remap(ids.astype(np.int64), "neuromorphometrics")
        label[(label == 0) & (image > 0)] = schema.container_id
        room = [48 - n for n in label.shape]
        masks[name] = to_dhw(np.pad(label, [(n // 2, n - n // 2) for n in room]), "AP")
    return masks


def test_real_brains_keep_the_rules(brains) -> None:
    """Nearest sampling tears thin sheets, so only the rules that it leaves alone are asked for."""
    rules = anatomy_report(list(brains.values()), load_schema("brain4"))["rules"]
    assert {rule: rules[rule] for rule in ("present", "holes", "containment")} == {
        "present": 1,
        "holes": 1,
        "containment": 1,
    }


def test_two_scans_of_a_person_are_most_alike(brains) -> None:
    dice = pairwise_dice(list(brains.values()), list(brains.values()), [1, 2, 3, 4])
    np.fill_diagonal(dice, 0)
    names = list(brains)
    assert {names[i] for i in np.unravel_index(dice.argmax(), dice.shape)} == {"1004", "1024"}


def test_phantom_brains_keep_the_rules_and_are_hardly_changed_by_clean_up() -> None:
    brain4 = load_schema("brain4")
    for seed in range(4):
        label = np.asarray(make_phantom(brain4, (48, 40, 40), seed)[1])
        cleaned = clean_up(label, brain4)
        assert [r for r in check(cleaned, brain4) if not r.passed] == []
        assert (cleaned != label).mean() < 0.01
