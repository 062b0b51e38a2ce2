"""Names, presets and options of pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import pipeline, stages
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from common.pipeline import choose_stages, preset_geometry, read_pipeline

STAGES = [{"name": "mask", "bundle": "a"}, {"name": "image", "bundle": "b"}]
PRESETS = {
    "tiny": {
        "schema": "brain4",
        "size": [48, 40, 40],
        "spacing": [4, 4, 4],
        "intensity": {"method": "percentile", "lower": 0.0, "upper": 1.0},
    }
}


def test_unknown_pipeline_names_the_known_ones() -> None:
    with pytest.raises(MedpairError, match="medgen3d"):
        read_pipeline("nonsense")


def test_every_preset_of_medgen3d_is_complete() -> None:
    config = read_pipeline("medgen3d")
    for name in config["presets"]:
        geometry = preset_geometry(config["presets"], name)
        assert len(geometry.size) == 3
        assert geometry.batch_volumes >= 1


def test_depth_replaces_the_preset_depth() -> None:
    assert preset_geometry(PRESETS, "tiny", 30).size == (30, 40, 40)
    assert preset_geometry(PRESETS, "tiny").size == (48, 40, 40)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(MedpairError, match="wanted one of tiny"):
        preset_geometry(PRESETS, "huge")


def test_stages_keep_the_order_of_the_pipeline() -> None:
    assert [s["name"] for s in choose_stages(STAGES, ["image", "mask"])] == ["mask", "image"]
    assert choose_stages(STAGES, ["image"]) == [STAGES[1]]
    assert choose_stages(STAGES, None) == STAGES


def test_unknown_stage_is_refused() -> None:
    with pytest.raises(MedpairError, match="'refiner' is unknown, wanted mask, image"):
        choose_stages(STAGES, ["refiner"])


def test_a_preset_without_weights_says_what_ships() -> None:
    with pytest.raises(MedpairError, match="no weights for preset 'base'"):
        stages.weights_path("mcdpm_mask", "base")


def test_data_of_another_size_are_refused_before_training(tmp_path: Path) -> None:
    write_phantom_set(tmp_path / "p", "brain4", (32, 32, 32), 1, 0, (4.0, 4.0, 4.0))
    with pytest.raises(MedpairError, match="medpair prepare --schema brain4 --size 48x40x40"):
        pipeline.train("medgen3d", data=tmp_path / "p", out=tmp_path / "w", preset="tiny")
    assert not (tmp_path / "w").exists()


def test_evaluate_says_which_bundles_judge_a_generated_set(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="give --synthetic DIR"):
        pipeline.evaluate("mcdpm_mask", data=tmp_path, out=tmp_path / "r")
    with pytest.raises(MedpairError, match="leave it out"):
        pipeline.evaluate("vid2vid_image", data=tmp_path, out=tmp_path / "r", synthetic=tmp_path)
    with pytest.raises(MedpairError, match=r"no configs/evaluate\.yaml"):
        pipeline.evaluate("nonsense", data=tmp_path, out=tmp_path / "r")
