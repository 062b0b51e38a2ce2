"""The baselines' configs as MONAI runs them, from another folder: train, then write a pair set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.engines.weights import read_card, save_weights
from common.errors import MedpairError
from gem3d.autoencoder import SliceAutoencoder

CONFIGS = bundles_dir() / "gem3d_volume" / "configs"
BASELINES = ("pix2pix", "ldm3d")
PHANTOMS = "phantom:brain4:17x18x20:2"  # fits neither the strides nor the latent grid
SMALL: dict[str, dict[str, Any]] = {
    "pix2pix": {"network_def::channels": [4, 8], "network_def::strides": [2]},
    "ldm3d": {
        "autoencoder_channels": [8, 8, 8],
        "latent_channels": 4,
        "network_def::channels": [8, 8],
        "network_def::head_channels": 8,
    },
}
BRATS = {"schema": "brats3", "num_classes": 5, "dataset_dir": "phantom:brats3:16x16x16:2"}
AIM = 2_500_000  # parameters of the main model, within 20 %


def content(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")))


def workflow(name: str, out: Path, **changes: Any) -> ConfigWorkflow:
    kind = name.removeprefix("train_")
    options = {"dataset_dir": PHANTOMS, "output_dir": str(out), "device": "cpu"} | SMALL[kind]
    made = ConfigWorkflow(
        config_file=[str(CONFIGS / f"{name}.yaml")],
        workflow_type="train" if name != kind else "infer",
        logging_file=False,
        **(options | changes),
    )
    made.initialize()
    return made


def train(kind: str, out: Path, iterations: int = 2, **changes: Any) -> Path:
    if kind == "ldm3d":
        torch.manual_seed(0)
        untrained = SliceAutoencoder((8, 8, 8), 4)
        card = {"schema": "brain4", "preset": "tiny"}
        save_weights(untrained, out / "autoencoder" / "model.pt", card)
    handlers = content(f"train_{kind}")["train"]["handlers"]
    (log,) = [n for n, h in enumerate(handlers) if h["_target_"].endswith("Tracking")]
    options = {"max_iterations": iterations, "val_interval": 1, "copies": 2, "progress": False}
    options |= {"precision": "fp32", f"train::handlers::{log}::_disabled_": True}
    made = workflow(f"train_{kind}", out, **(options | changes))
    made.run()
    made.finalize()
    return out / kind


def generate(kind: str, trained: Path, out: Path, **changes: Any) -> PairSet:
    options: dict[str, Any] = {"weights": str(trained / "model.pt")}
    if kind == "ldm3d":
        options["autoencoder_weights"] = str(trained.parent / "autoencoder" / "model.pt")
        options["num_steps"] = 2
    made = workflow(kind, out, **(options | changes))
    made.run()
    made.finalize()
    return PairSet.open(out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """Weights of both, blind and informed."""
    folder = tmp_path_factory.mktemp("baselines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {
            (kind, informed): train(kind, folder / f"{kind}-{informed}", informed=informed)
            for kind in BASELINES
            for informed in (False, True)
        }


def images(pairs: PairSet) -> list[np.ndarray]:
    return [pairs.read(name).image for name in pairs.ids()]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(*both) for both in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", BASELINES)
def test_training_writes_weights_and_what_they_are_worth(
    kind: str, trained: dict[tuple[str, bool], Path]
) -> None:
    folder = trained[kind, True]
    card = read_card(folder / "model.pt")
    assert (card["schema"], card["preset"], card["informed"]) == ("brain4", "tiny", True)
    line = json.loads((folder / "val_log.jsonl").read_text().splitlines()[-1])
    assert line["iteration"] == 2
    assert 0 < line["psnr"] < 60
    assert (folder / "samples" / "000002.png").exists()


@pytest.mark.parametrize("kind", BASELINES)
def test_inference_writes_the_same_pair_set_again(
    kind: str, trained: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    made = generate(kind, trained[kind, False], tmp_path / "one")
    again = generate(kind, trained[kind, False], tmp_path / "again")
    assert made.header["generated_by"] == f"gem3d_volume {kind}"
    assert images(made)[0].shape == (17, 18, 20)
    assert {made.record(name)["split"] for name in made.ids()} == {"validation"}
    assert same(images(made), images(again))
    elsewhere = generate(kind, trained[kind, False], tmp_path / "elsewhere", informed_index=3)
    assert same(images(made), images(elsewhere))


@pytest.mark.parametrize("kind", BASELINES)
def test_the_middle_slice_informs_where_asked(
    kind: str, trained: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    made, middle, other = (
        images(generate(kind, trained[kind, True], tmp_path / str(z), informed=True, **more))
        for z, more in enumerate(({}, {"informed_index": 8}, {"informed_index": 3}))
    )
    assert same(made, middle)
    assert not same(made, other)


def test_patches_train_and_cover_the_volume(tmp_path: Path) -> None:
    patch = [12, 14, 24]
    folder = train("pix2pix", tmp_path, pix2pix_batch_size=2, patch=patch, informed=True)
    made = generate("pix2pix", folder, tmp_path / "pairs", patch=patch, informed=True)
    assert images(made)[0].shape == (17, 18, 20)


@pytest.mark.parametrize("kind", BASELINES)
def test_a_resumed_training_gives_the_same_bits(kind: str, tmp_path: Path) -> None:
    handlers = content(f"train_{kind}")["train"]["handlers"]
    cosines = [n for n, h in enumerate(handlers) if h["_target_"].endswith("WarmupCosine")]
    whole = {f"train::handlers::{n}::max_iterations": 3 for n in cosines}
    straight = train(kind, tmp_path / "straight", 3)
    train(kind, tmp_path / "stopped", 2, **whole)
    resumed = train(kind, tmp_path / "stopped", 3)
    one, other = (
        torch.load(folder / "model.pt", weights_only=True) for folder in (straight, resumed)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def complaint(error: BaseException | None) -> str:
    while error is not None and not isinstance(error, MedpairError):
        error = error.__cause__  # MONAI wraps what a config's calls raise
    return str(error)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("pix2pix", {"informed": True}, "weights trained with informed false, wanted true"),
        ("ldm3d", {"informed": True}, "weights trained with informed false, wanted true"),
        ("pix2pix", BRATS, "weights of schema 'brain4', wanted 'brats3'"),
        ("ldm3d", {"preset": "small"}, "weights of preset 'tiny', wanted 'small'"),
        ("pix2pix", {"weights": "/no/such.pt"}, "/no/such.pt: no such weight file"),
        ("ldm3d", {"autoencoder_weights": "/no/such.pt"}, "/no/such.pt: no autoencoder; run"),
        ("pix2pix", {"dataset_dir": "phantom:thorax7:16x16x16:2"}, "schema 'thorax7'"),
        ("pix2pix", {"network_def::channels": [4, 16]}, "does not fit this network"),
        ("ldm3d", {"informed_index": 17}, "17; want 0..16"),
        ("ldm3d", {"sampler": "euler"}, "sampler: 'euler'"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    kind: str,
    changes: dict[str, Any],
    message: str,
    trained: dict[tuple[str, bool], Path],
    tmp_path: Path,
) -> None:
    with pytest.raises((MedpairError, RuntimeError)) as raised:
        generate(kind, trained[kind, False], tmp_path / "out", **changes)
    assert message in complaint(raised.value)
    assert "\n" not in complaint(raised.value)


def test_latents_of_another_scale_are_refused(
    trained: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    other = SliceAutoencoder((8, 8, 8), 4)
    other.latent_std.fill_(3.0)
    save_weights(other, tmp_path / "other.pt", {"schema": "brain4", "preset": "tiny"})
    with pytest.raises((MedpairError, RuntimeError)) as raised:
        generate(
            "ldm3d",
            trained["ldm3d", False],
            tmp_path / "out",
            autoencoder_weights=str(tmp_path / "other.pt"),
        )
    assert "latent scale [3, 3, 3, ...], the weights were trained with [1, 1" in complaint(
        raised.value
    )


@pytest.mark.parametrize("kind", BASELINES)
def test_training_and_inference_name_one_network(kind: str) -> None:
    training, inference = content(f"train_{kind}"), content(kind)
    keys = ["network_def", "schema", "preset", "num_classes", "informed"]
    keys += {"pix2pix": ["patch"], "ldm3d": ["mask_code", "contour", "schedule", "prediction"]}[
        kind
    ]
    for key in [*keys, *(k for k in training if k.startswith(("autoencoder_", "latent_")))]:
        if key != "autoencoder_weights":
            assert training[key] == inference[key], key


@pytest.mark.parametrize("informed", [False, True])
@pytest.mark.parametrize("kind", BASELINES)
def test_the_tiny_networks_have_the_size_of_the_main_one(kind: str, *, informed: bool) -> None:
    parser = ConfigParser(content(kind))
    parser["informed"] = informed
    network = parser.get_parsed_content("network_def")
    assert 0.8 * AIM <= sum(p.numel() for p in network.parameters()) <= 1.2 * AIM
