"""The audit of slices flags planted copies and lets held-back scans pass."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.errors import MedpairError
from common.metrics.slice_copies import AuditScan, copy_audit, nearest_slices, slice_vectors

SCHEMA = load_schema("brain4")


def scan(seed: int, **changes: object) -> AuditScan:
    image, label = make_phantom(SCHEMA, (20, 32, 32), seed)
    return AuditScan(
        **{"id": f"p{seed}", "image": image, "label": label, "person": f"p{seed}"} | changes
    )


TRAINING = [scan(seed) for seed in range(4)]
HELD_OUT = [scan(seed) for seed in range(10, 14)]


def made(image: np.ndarray, seed: int = 0, **changes: object) -> AuditScan:
    return scan(seed, id="g", image=image, informed_by="p1", start=10, **changes)


@pytest.mark.parametrize("kind", ["plain", "detail"])
def test_vectors_are_centred_and_of_length_one(kind: str) -> None:
    found = slice_vectors(TRAINING, kind)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.vectors.mean(axis=1), 0, atol=1e-6)
    own, which = nearest_slices(found, found)
    np.testing.assert_allclose(own, 1, atol=1e-5)
    np.testing.assert_array_equal(which, np.arange(len(own)))


def test_gain_and_offset_do_not_count() -> None:
    bank = slice_vectors(TRAINING, "plain")
    changed = slice_vectors([made(TRAINING[0].image * 0.5 + np.float32(0.2))], "plain")
    value, which = nearest_slices(changed, bank)
    assert value.min() > 0.9999
    assert set(bank.scans[which]) == {0}


def test_a_blurred_mirrored_copy_is_flagged() -> None:
    blurred = ndimage.gaussian_filter(TRAINING[2].image, (0, 0.5, 0.5))[..., ::-1]
    mirrored = TRAINING[2].label[..., ::-1]
    found = copy_audit([made(blurred, 2, label=mirrored)], TRAINING, HELD_OUT)
    assert found["detail"]["all"]["share_above"] == 1
    assert found["detail"]["volumes"]["g"]["nearest"] == "p2"
    assert found["detail"]["all"]["nearest"]["mask_person"] == 1
    without = copy_audit([made(blurred, 2, label=mirrored)], TRAINING, HELD_OUT, mirror=False)
    assert without["detail"]["all"]["share_above"] < 0.5


def test_held_back_scans_pass() -> None:
    fair = [scan(seed, id=f"g{seed}", start=10) for seed in range(20, 28)]
    found = copy_audit(fair, TRAINING, HELD_OUT)
    assert found["detail"]["all"]["share_above"] < 0.1
    assert found["detail"]["all"]["median"] < found["detail"]["threshold"]


def test_a_copied_informed_slice_is_seen_near_it_alone() -> None:
    fair = scan(20)
    image = fair.image.copy()
    image[10] = TRAINING[1].image[10]
    found = copy_audit([made(image, 20, person="p0")], TRAINING, HELD_OUT, near=0)["detail"]
    assert found["near_informed"]["slices"] == 1
    assert found["near_informed"]["share_above"] == 1
    assert found["near_informed"]["nearest"]["informed_person"] == 1
    assert found["elsewhere"]["share_above"] < 0.2


def test_without_held_back_scans_the_threshold_has_a_reason() -> None:
    found = copy_audit([made(TRAINING[0].image)], TRAINING, [])
    assert str(found["plain"]["threshold"]).startswith("not computed")
    assert str(found["plain"]["all"]["share_above"]).startswith("not computed")
    assert found["plain"]["all"]["median"] == pytest.approx(1)


def test_large_slices_are_averaged_down() -> None:
    big = np.repeat(np.repeat(TRAINING[0].image, 4, axis=1), 4, axis=2)
    label = np.repeat(np.repeat(TRAINING[0].label, 4, axis=1), 4, axis=2)
    assert slice_vectors([AuditScan("big", big, label, "x")], "plain").vectors.shape[1] == 64 * 64


def test_two_sizes_and_no_slices_are_refused() -> None:
    small = AuditScan("s", TRAINING[0].image[:, 2:], TRAINING[0].label[:, 2:], "s")
    with pytest.raises(MedpairError, match="one size"):
        slice_vectors([TRAINING[0], small], "plain")
    empty = AuditScan("e", TRAINING[0].image, TRAINING[0].label * 0, "e")
    with pytest.raises(MedpairError, match="at least 1"):
        slice_vectors([empty], "plain")
