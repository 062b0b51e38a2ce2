"""The pipeline gem3d from end to end, with weights made here: what it does needs no training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.engines.weights import read_card, save_weights
from common.errors import MedpairError
from common.pipeline import generate, generate_pipeline, read_pipeline, train

SIZE = (48, 40, 40)
TIMED = ("run.jsonl", "report.html")  # they hold seconds


class StoppedError(Exception):
    """Stands for a process that ends between two pairs."""


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in TIMED)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of preset tiny; masks come from the weights that ship."""
    folder = tmp_path_factory.mktemp("weights")
    config = ConfigParser.load_config_file(
        str(bundles_dir() / "gem3d_volume" / "configs" / "inference.yaml")
    )
    torch.manual_seed(0)
    network = ConfigParser(config).get_parsed_content("network_def")
    card = {"schema": "brain4", "preset": "tiny"}
    save_weights(network, folder / "gem3d_volume" / "model.pt", card)
    (folder / "mcdpm_mask").symlink_to(bundles_dir() / "mcdpm_mask" / "models")
    return folder


def run(out: Path, weights: Path, **changes: Any) -> PairSet:
    """Two short volumes, one per batch."""
    pipeline = read_pipeline("gem3d")
    presets = {"tiny": {**pipeline["presets"]["tiny"], "batch_volumes": 1}}
    words: dict[str, Any] = {"preset": "tiny", "num": 2, "seed": 5, "depth": 16, "start": 0}
    words |= {"weights": weights} | changes
    generate_pipeline("gem3d", pipeline["stages"], presets, out=out, **words)
    return PairSet.open(out)


@pytest.fixture(scope="module")
def whole(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "pairs"
    run(out, weights)
    return out


def test_pairs_of_masks_and_volumes(whole: Path) -> None:
    pairs = PairSet.open(whole)
    assert pairs.ids() == ("s5_00000", "s5_00001")
    stages = pairs.header["generated"]["stages"]
    assert set(stages) == {"mask", "volume"}
    assert all(len(stage["weights_sha256"]) == 64 for stage in stages.values())
    one, other = (pairs.read(name) for name in pairs.ids())
    assert (one.label != other.label).any()
    for pair in (one, other):
        assert pair.label.shape == pair.image.shape == (16, 40, 40)
        assert 0 <= pair.image.min() < pair.image.max() <= 1
        # the masks began at slice 0; the image began where they show a body
        record = pairs.record(pair.id)
        assert pair.label[record["start"]].any()
        # of the volume's windows of 16 slices, not of the mask's of 6
        assert record["joints"] == []
    assert pairs.header["generated"]["start"] == 0
    assert (whole / "contact_sheet.png").stat().st_size > 1000


def test_an_interrupted_run_continues_to_the_same_bytes(
    weights: Path, whole: Path, tmp_path: Path
) -> None:
    begun: list[str] = []

    def stop(task: str, finished: int, total: int) -> None:
        begun.append(task)
        if begun.count("volume") == 3:  # start and end of the first, start of the second
            raise StoppedError

    with pytest.raises(StoppedError):
        run(tmp_path / "parts", weights, progress=stop)
    assert PairSet.open(tmp_path / "parts").ids() == ("s5_00000",)
    assert not list((tmp_path / "parts").rglob("*s5_00001*"))
    run(tmp_path / "parts", weights)
    assert tree(tmp_path / "parts") == tree(whole)


def test_volumes_for_given_masks(weights: Path, tmp_path: Path) -> None:
    write_phantom_set(tmp_path / "masks", "brain4", (16, 40, 40), 1, spacing=(4.0, 4.0, 4.0))
    given = PairSet.open(tmp_path / "masks")
    words: dict[str, Any] = {"data": tmp_path / "masks", "only": ["volume"]}
    words |= {"num": 1, "start": None}
    one = run(tmp_path / "a", weights, **words).read("s5_00000")
    other = run(tmp_path / "b", weights, **words, seed=6).read("s6_00000")
    np.testing.assert_array_equal(one.label, given.read(given.ids()[0]).label)
    np.testing.assert_array_equal(one.label, other.label)
    assert (one.image != other.image).any()


def test_weights_of_another_preset_are_refused(weights: Path, tmp_path: Path) -> None:
    stages = [{"name": "volume", "bundle": "gem3d_volume"}]
    presets = {"small": read_pipeline("gem3d")["presets"]["small"]}
    words: dict[str, Any] = {"preset": "small", "num": 1, "seed": 0, "weights": weights}
    with pytest.raises(MedpairError, match="weights of preset 'tiny', wanted 'small'"):
        generate_pipeline("gem3d", stages, presets, out=tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own calls
def test_train_then_generate(tmp_path: Path) -> None:
    """`medpair train gem3d` and `medpair generate gem3d --weights`: five trainings, one pair."""
    write_phantom_set(tmp_path / "data", "brain4", SIZE, 2, spacing=(4.0, 4.0, 4.0), holdout=0.5)
    begun: list[str] = []

    def note(task: str, finished: int, total: int) -> None:
        assert total == 1  # iteration
        begun.append(task)

    words: dict[str, Any] = {"data": tmp_path / "data", "out": tmp_path / "weights"}
    train("gem3d", **words, max_iterations=1, progress=note)
    trainings = [f"{kind} volume" for kind in read_pipeline("gem3d")["stages"][1]["trainings"]]
    assert list(dict.fromkeys(begun)) == ["train mask", *trainings]
    model = tmp_path / "weights" / "gem3d_volume" / "model.pt"
    assert read_card(model)["iterations"] == 1
    before = model.stat().st_mtime_ns
    train("gem3d", **words, max_iterations=1)  # finished: nothing is done again
    assert model.stat().st_mtime_ns == before
    out = tmp_path / "pairs"
    masks = {"data": tmp_path / "data", "stages": ["volume"]}  # one iteration draws no bodies
    generate("gem3d", num=1, seed=0, out=out, weights=tmp_path / "weights", **masks)
    pairs = PairSet.open(out)
    assert pairs.read(pairs.ids()[0]).image.shape == SIZE
