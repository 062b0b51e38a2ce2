"""Names, presets and options of pipelines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ignite.engine import Engine

from common import pipeline, stages
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from common.evaluation import evaluate
from common.gating import is_gate, own_weights, without_gate
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


@pytest.mark.parametrize("name", ["medgen3d", "gem3d"])
def test_every_preset_of_a_pipeline_is_complete(name: str) -> None:
    config = read_pipeline(name)
    for preset in config["presets"]:
        geometry = preset_geometry(config["presets"], preset)
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
        evaluate("mcdpm_mask", data=tmp_path, out=tmp_path / "r")
    with pytest.raises(MedpairError, match="leave it out"):
        evaluate("vid2vid_image", data=tmp_path, out=tmp_path / "r", synthetic=tmp_path)
    with pytest.raises(MedpairError, match=r"no configs/evaluate\.yaml"):
        evaluate("nonsense", data=tmp_path, out=tmp_path / "r")


def test_a_stage_with_several_trainings_runs_them_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder per bundle, with the same data; a stage without a list has one, `train`."""
    write_phantom_set(tmp_path / "p", "brain4", (48, 40, 40), 1, 0, (4.0, 4.0, 4.0))
    opened: list[tuple[str, str]] = []
    options: list[dict[str, Any]] = []
    told: list[tuple[str, int, int]] = []

    class Workflow:
        def __init__(self) -> None:
            self.trainer = Engine(lambda engine, batch: None)
            self.trainer.state.max_epochs, self.trainer.state.epoch_length = 1, 3
            self.parser = SimpleNamespace(get_parsed_content={"train#trainer": self.trainer}.get)

        def run(self) -> None:
            assert told[-1][1] == 0  # said before it begins
            self.trainer.run(range(3))

    def open_workflow(bundle: str, kind: str, preset: str, overrides: dict[str, Any]) -> Workflow:
        assert preset == overrides["preset"] == "tiny"
        opened.append((bundle, kind))
        options.append(overrides)
        return Workflow()

    monkeypatch.setattr(pipeline, "open_workflow", open_workflow)
    words: dict[str, Any] = {"data": tmp_path / "p", "out": tmp_path / "w", "max_iterations": 3}
    pipeline.train("gem3d", **words, progress=lambda *step: told.append(step))
    volume = ["train_autoencoder", "train_slice", "train_slice_generator", "train"]
    assert opened == [("mcdpm_mask", "train"), *[("gem3d_volume", kind) for kind in volume]]
    folders = [Path(option["output_dir"]) for option in options]
    assert folders == [tmp_path / "w" / bundle for bundle, _ in opened]
    assert {option["max_iterations"] for option in options} == {3}
    assert {option["dataset_dir"] for option in options} == {str(tmp_path / "p")}
    assert {option["progress"] for option in options} == {False}  # one bar, not two
    names = ["train mask", *(f"{kind} volume" for kind in volume)]
    assert told == [(name, done, 3) for name in names for done in range(4)]


def test_minutes_of_a_stage_are_shared_by_its_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_phantom_set(tmp_path / "p", "brain4", (48, 40, 40), 1, 0, (4.0, 4.0, 4.0))
    minutes: list[tuple[str, float]] = []

    def open_workflow(bundle: str, kind: str, preset: str, overrides: dict[str, Any]) -> Any:
        assert "max_iterations" not in overrides
        minutes.append((bundle, overrides["minutes"]))
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr(pipeline, "open_workflow", open_workflow)
    pipeline.train("gem3d", data=tmp_path / "p", out=tmp_path / "w", minutes=30)
    pipeline.train("medgen3d", data=tmp_path / "p", out=tmp_path / "w", minutes=30)
    whole = [("mcdpm_mask", 30), ("vid2vid_image", 30), ("sdm_refiner", 30)]
    assert minutes[0] == ("mcdpm_mask", 30)
    assert minutes[5:] == whole
    assert [bundle for bundle, _ in minutes[1:5]] == ["gem3d_volume"] * 4
    assert sum(part for _, part in minutes[1:5]) == pytest.approx(30)


def test_minutes_and_iterations_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="wanted one of them"):
        pipeline.train("gem3d", data=tmp_path, out=tmp_path, minutes=3, max_iterations=3)


def test_a_training_that_fails_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_phantom_set(tmp_path / "p", "brain4", (48, 40, 40), 1, 0, (4.0, 4.0, 4.0))
    opened: list[str] = []

    class Workflow:
        def run(self) -> None:
            if opened[-1] == "train_slice":
                raise RuntimeError("wrapped by MONAI") from MedpairError("loss: NaN")

    def open_workflow(bundle: str, kind: str, preset: str, overrides: dict[str, Any]) -> Workflow:
        opened.append(kind)
        return Workflow()

    monkeypatch.setattr(pipeline, "open_workflow", open_workflow)
    with pytest.raises(MedpairError, match="loss: NaN"):
        pipeline.train("gem3d", data=tmp_path / "p", out=tmp_path / "w")
    assert opened == ["train", "train_autoencoder", "train_slice"]


GATE = {"name": "gate", "bundle": "judge", "by_default": ["tiny"], "retries": 3, "trainings": []}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"wanted": False}, "left out"),
        ({"preset": "small"}, "no ranges of real scans ship for preset small"),
        ({"other_depth": 12}, "12 slices"),
        ({"weights": "nowhere"}, "the given weights hold none of judge"),
        ({"named": True, "weights": "nowhere", "preset": "small", "other_depth": 3}, ""),
        ({"named": True, "wanted": False}, "left out"),
    ],
)
def test_a_gate_runs_where_it_can_judge_or_is_named(changes: dict[str, Any], reason: str) -> None:
    words: dict[str, Any] = {"named": False, "wanted": True, "preset": "tiny", "other_depth": None}
    chosen, why = without_gate([*STAGES, GATE], **(words | {"weights": None} | changes))
    assert why.startswith(reason)
    assert bool(why) == bool(reason)
    assert chosen == ([*STAGES] if reason else [*STAGES, GATE])


def test_without_a_gate_in_the_pipeline_there_is_a_reason() -> None:
    words: dict[str, Any] = {"preset": "tiny", "other_depth": None, "weights": None}
    assert without_gate(STAGES, named=True, wanted=True, **words) == ([*STAGES], "left out")


def test_a_gate_takes_the_users_weights_where_they_hold_some(tmp_path: Path) -> None:
    assert own_weights(GATE, tmp_path) is None
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "model.pt").touch()
    assert own_weights(GATE, tmp_path) == tmp_path
    words: dict[str, Any] = {"named": False, "wanted": True, "preset": "tiny"}
    kept, why = without_gate([GATE], **words, other_depth=None, weights=tmp_path)
    assert (kept, why) == ([GATE], "")


@pytest.mark.parametrize("name", ["medgen3d", "gem3d"])
def test_the_gate_of_a_pipeline_stands_last_and_is_not_trained(name: str) -> None:
    config = read_pipeline(name)
    *others, gate = config["stages"]
    assert is_gate(gate)
    assert not any(is_gate(stage) for stage in others)
    assert (gate["trainings"], gate["retries"]) == ([], 3)
    for preset in gate["by_default"]:  # what it needs ships
        assert ranges_of(stages.weights_path(gate["bundle"], preset)).is_file()


def ranges_of(weights: Path) -> Path:
    return weights.with_name(f"{weights.stem}_ranges.json")
