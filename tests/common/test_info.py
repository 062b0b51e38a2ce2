"""What `medpair info` tells, and where the bundles are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from common import bundles, info
from common.errors import MedpairError

METADATA = {"version": "0.1.0", "task": "Generate masks", "description": "Masks, slice by slice"}
METADATA["copyright"] = "code A, weights B"
PIPELINE = """
preset: tiny
presets:
  tiny:
    schema: brain4
    size: [48, 40, 40]
    spacing: [4.0, 4.0, 4.0]
    memory_gib: {mask: 0.5, gate: 0.7}
  small: {schema: brain4, size: [96, 80, 80], spacing: [2.0, 2.0, 2.5]}
stages:
  - {name: mask, bundle: stage_a}
  - {name: gate, bundle: stage_a, by_default: [tiny]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with one bundle and one pipeline, and let it be the bundles folder."""
    for name in ("configs", "models"):
        (tmp_path / "stage_a" / name).mkdir(parents=True)
    (tmp_path / "stage_a" / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    torch.save({"w": torch.zeros(1 << 18)}, tmp_path / "stage_a" / "models" / "model.pt")
    (tmp_path / "stage_a" / "presets").mkdir()
    (tmp_path / "stage_a" / "presets" / "huge.yaml").write_text("preset: huge")
    (tmp_path / "stage_a" / "presets" / "finish.yaml").write_text("learning_rate: 1")
    torch.save({}, tmp_path / "stage_a" / "models" / "small.pt")
    (tmp_path / "chain.yaml").write_text(PIPELINE)
    for module in (bundles, info):
        monkeypatch.setattr(module, "bundles_dir", lambda: tmp_path)
    return tmp_path


def test_the_real_bundles_are_found() -> None:
    assert {"mcdpm_mask", "vid2vid_image"} <= set(bundles.bundles())
    assert "medgen3d" in bundles.pipelines()


def test_a_bundle_tells_its_presets(folder: Path) -> None:
    rows = dict(info.describe("stage_a"))
    assert rows["task"] == "Generate masks"
    shown = "default (1.1 MB), small (0.0 MB); code A, weights B; not shipped: huge"
    assert str(rows["weights"]) == shown
    assert info.as_json(info.describe("stage_a"))["weights"] == {
        "shipped_mb": {"default": 1.1, "small": 0.0},
        "not_shipped": ["huge"],
        "licence": "code A, weights B",
    }
    assert list(bundles.presets("stage_a")) == ["default", "small"]


def test_a_pipeline_tells_its_presets_and_stages(folder: Path) -> None:
    rows = dict(info.describe("chain"))
    tiny, small = rows["preset tiny"], rows["preset small"]
    assert str(tiny) == "brain4, 48x40x40 of 4x4x4 mm, 0.70 GiB of memory on a CPU, the default"
    assert str(small) == "brain4, 96x80x80 of 2x2x2.5 mm, memory not measured"
    told = info.as_json(info.describe("chain"))
    assert told["preset tiny"]["memory_gib_cpu"] == 0.7
    assert told["preset small"]["memory_gib_cpu"] is None
    assert rows["bundle"] == "stage_a"


def test_programs_get_the_folder_and_the_licence_of_each_stage(folder: Path) -> None:
    rows = info.as_json(info.describe("stage_a"))
    assert (rows["folder"], rows["licence"]) == (str(folder / "stage_a"), "code A, weights B")
    told = info.as_json(info.describe("chain"))
    assert told["pipeline"] == "chain"
    assert [stage["folder"] for stage in told["stages"]] == [str(folder / "stage_a")] * 2


def test_the_installation_tells_what_there_is(folder: Path) -> None:
    rows = dict(info.describe())
    assert (rows["pipelines"], rows["bundles"]) == ("chain", "stage_a")
    assert "brain4" in str(rows["schemas"]).split(", ")
    assert str(rows["device"]).startswith(("cpu", "cuda"))
    assert "not shipped: huge" in str(rows["weights stage_a"])
    assert "0.70 GiB" in str(rows["chain preset tiny"])
    keys = [key for key, _ in info.describe()]
    assert list(json.loads(json.dumps(info.as_json(info.describe())))) == keys


def test_an_unknown_name_tells_the_known_ones(folder: Path) -> None:
    with pytest.raises(MedpairError, match=r"found 'nothing', wanted .*chain, stage_a"):
        info.describe("nothing")
    with pytest.raises(MedpairError, match=r"found 'nothing', wanted one of stage_a"):
        bundles.presets("nothing")


def test_a_folder_that_is_no_pair_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match=r"no dataset\.json"):
        info.describe(tmp_path)
