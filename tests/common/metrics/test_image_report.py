"""The card of an image generator: what is in it, and what its parts say of known images."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from common.data.datasets import Pair, PairSet
from common.errors import MedpairError
from common.metrics.extractors import MapExtractor
from common.metrics.image_report import (
    NO_EXTRACTOR,
    NO_SEGMENTER,
    UNPAIRED,
    ImageSet,
    judge_images,
    read_images,
    scans_of,
)

LEVELS = np.array([0.05, 0.2, 0.9, 0.5], np.float32)


def texture(label: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=label.shape)
    return (LEVELS[label] + 0.02 * noise).astype(np.float32)


def image_set(maps: list[np.ndarray], prefix: str, seed: int) -> ImageSet:
    names = [f"{prefix}{n}" for n in range(len(maps))]
    return ImageSet(names, [texture(m, seed + n) for n, m in enumerate(maps)], maps, names)


def segment(image_VDHW: Tensor) -> Tensor:
    return (image_VDHW[..., None] - torch.from_numpy(2 * LEVELS - 1)).abs().argmin(-1).byte()


def local_means(image_VDHW: Tensor) -> Tensor:
    mean = nn.functional.avg_pool3d(image_VDHW[:, None], 2)
    deviation = nn.functional.avg_pool3d((image_VDHW[:, None]) ** 2, 2) - mean**2
    return torch.cat([mean, 10 * deviation.abs().sqrt()], 1)


EXTRACTOR = MapExtractor(local_means, "local means")


@pytest.fixture
def held_out(make_people) -> ImageSet:
    return image_set(make_people(6, 1), "h", 100)


def test_without_real_scans_tools_or_training_set_the_rest_is_said(schema, held_out) -> None:
    made = image_set(held_out.labels[:4], "s", 200)
    report = judge_images(made, held_out, schema)
    assert (report["n"], report["n_held_out"], report["n_training"]) == (4, 6, None)
    assert report["fidelity"] == report["lpips"] == UNPAIRED
    assert report["alignment"] == NO_SEGMENTER
    assert report["features"] == NO_EXTRACTOR
    assert report["detail_ratio"] == pytest.approx(1, abs=0.2)
    assert report["consistency"]["D"]["slice_noise"] == pytest.approx(1, abs=0.1)
    assert report["intensity"]["dark"]["distance"] < 0.01
    json.dumps(report, allow_nan=False)


def test_second_images_of_held_out_masks_are_as_good_as_the_scans(
    schema, held_out, make_people
) -> None:
    made = ImageSet(
        held_out.ids,
        [texture(m, 300 + n) for n, m in enumerate(held_out.labels)],
        held_out.labels,
        held_out.persons,
    )
    report = judge_images(
        made,
        held_out,
        schema,
        real=held_out.images,
        training=image_set(make_people(9, 2), "t", 400),
        extractors=[EXTRACTOR],
        segment=segment,
        lpips="not computed: no AlexNet weights are given for LPIPS",
    )
    json.dumps(report, allow_nan=False)
    assert report["n_training"] == 9
    assert report["fidelity"]["mean"]["3D"]["psnr"] == pytest.approx(31, abs=1)  # 2 * 0.02**2
    assert report["fidelity"]["intensity"]["dark"]["median"] < 0.02
    assert set(report["lpips"].values()) == {"not computed: no AlexNet weights are given for LPIPS"}
    assert report["detail_ratio"] == pytest.approx(1, abs=0.05)
    assert report["alignment"]["mean"]["ratio"] == pytest.approx(1, abs=0.01)
    found = report["features"]["local means"]
    assert (found["floor"], found["n_reference"]) == ("two real sets", 9)
    assert 0.6 < found["mean"]["fid"]["ratio"] < 1.6  # their noise differs


def test_blurred_images_fail_where_they_should(schema, held_out) -> None:
    blurred = ImageSet(
        held_out.ids,
        [gaussian_filter(image, 1.0) for image in held_out.images],
        held_out.labels,
        held_out.persons,
    )
    report = judge_images(
        blurred,
        held_out,
        schema,
        real=held_out.images,
        extractors=[EXTRACTOR],
        segment=segment,
    )
    assert report["detail_ratio"] < 0.5
    assert report["consistency"]["W"]["odd_even"] < 0.5
    assert report["alignment"]["labels"]["dark"]["ratio"] < 0.9
    assert report["features"]["local means"]["mean"]["fid"]["ratio"] > 2
    assert report["features"]["local means"]["floor"] == "random halves of the real persons"


def test_a_set_names_every_image_its_mask_and_its_person(held_out) -> None:
    one = held_out.images[:1]
    with pytest.raises(MedpairError, match="1 with 0 masks and 1 ids"):
        ImageSet(["a"], one, [], ["a"])
    with pytest.raises(MedpairError, match="persons: 2 for 1 real images"):
        ImageSet(["a"], one, held_out.labels[:1], ["a", "b"])


def test_pair_sets_are_read_with_persons_and_in_0_to_1(schema, held_out, tmp_path) -> None:
    pairs = PairSet.create(tmp_path / "real", schema, (1.0, 1.0, 1.0), None, {"method": "none"})
    for number, name in enumerate(held_out.ids):
        pair = Pair(name, 2 * held_out.images[number], held_out.labels[number], np.eye(4))
        split = "training" if number < 4 else "validation"
        pairs.write(pair, {"split": split, "person": f"p{number // 2}"})
    kept = read_images(pairs.dir, "validation")
    assert (kept.ids, kept.persons) == (["h4", "h5"], ["p2", "p2"])
    assert kept.images[0].max() == 1
    np.testing.assert_array_equal(kept.labels[1], held_out.labels[5])
    assert len(read_images(pairs.dir).ids) == 6


def test_the_scan_of_an_image_has_its_name_and_its_mask(held_out) -> None:
    made = ImageSet(held_out.ids[3:], held_out.images[:3], held_out.labels[3:], ["x"] * 3)
    found = scans_of(made, held_out)
    assert all(a is b for a, b in zip(found, held_out.images[3:], strict=True))
    other = ImageSet(held_out.ids[3:], held_out.images[:3], held_out.labels[2:5], ["x"] * 3)
    assert scans_of(other, held_out) is None
    assert scans_of(held_out, made) is None
