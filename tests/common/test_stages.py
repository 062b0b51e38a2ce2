"""Bundles opened by the keys of their configs alone."""

from pathlib import Path

import pytest
import torch

from common.bundles import bundles_dir
from common.data.datasets import load_arrays
from common.errors import MedpairError
from common.metrics.alignment import alignment
from common.metrics.extractors import MapExtractor
from common.stages import judge_of, open_key


def test_no_bundle_opens_nothing() -> None:
    assert open_key(None, "features", "tiny") is None


def test_a_preset_without_weights_says_which_ship() -> None:
    with pytest.raises(MedpairError, match="no weights for preset 'huge', it ships tiny"):
        open_key("segmentation_eval", "features", "huge")


def test_the_segmenter_opens_as_what_the_metrics_want() -> None:
    data = load_arrays("phantom:brain4:24x20x22:1", "training")
    image, label = data.images[0], data.labels[0]
    features, segment = (
        open_key("segmentation_eval", key, "tiny") for key in ("features", "segment")
    )
    found = MapExtractor(features, "encoder")(image, label, data.schema.slice_axis)
    assert set(found) == {"A", "C", "S"}
    assert len({rows.shape[1] for rows in found.values()}) == 1
    mask = segment(torch.from_numpy(2 * image.clip(0, 1) - 1)[None])
    assert (mask.dtype, mask.shape) == (torch.uint8, (1, *image.shape))
    report = alignment(segment, [image], [label], [image], [label], data.schema)
    assert report["mean"]["ratio"] == 1


def test_the_segmenter_of_own_weights_judges_before_the_one_that_ships(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert judge_of("tiny", None) == judge_of("tiny", tmp_path) == {}
    assert not caplog.records
    assert judge_of("small", tmp_path) == {"segmenter": None}
    assert "segmentation_eval: no weights for preset 'small'" in caplog.text
    (tmp_path / "segmentation_eval").mkdir()
    (tmp_path / "segmentation_eval" / "model.pt").touch()
    assert judge_of("small", tmp_path) == {"segmenter_weights": str(tmp_path)}


@pytest.mark.parametrize(
    ("bundle", "kind"),
    [
        *(("gem3d_volume", kind) for kind in ("enhance", "harmonise", "counterfactual")),
        *((bundle, "evaluate") for bundle in ("gem3d_volume", "sdm_refiner")),
    ],
)
def test_every_use_takes_the_segmenter_of_own_weights(bundle: str, kind: str) -> None:
    path = bundles_dir() / bundle / "configs" / f"{kind}.yaml"
    entries = [
        line for line in path.read_text("utf-8").splitlines() if 'bundle: "@segmenter"' in line
    ]
    assert entries
    assert all('weights: "@segmenter_weights"' in line for line in entries)
