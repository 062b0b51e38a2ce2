"""The configs as MONAI runs them: four trainings, images from their weights, a report on these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow

from common.data.datasets import PairSet, load_arrays
from common.engines.checkpoints import run_trainer
from common.engines.weights import read_card
from common.errors import MedpairError
from common.stages import plain_errors

CONFIGS = Path(__file__).parents[2] / "bundles" / "gem3d_volume" / "configs"
PRESETS = CONFIGS.parent / "presets"
TRAININGS = ("train_autoencoder", "train_slice", "train_slice_generator", "train")
PHANTOM = "phantom:brain4:16x20x18:2"
SMALL: dict[str, Any] = {
    "dataset_dir": PHANTOM,
    "autoencoder_channels": [8, 8, 8],
    "latent_channels": 4,
    "channels": [8, 16],
    "embedding": 16,
    "slice_generator_channels": [8, 16],
    "slice_generator_embedding": 16,
    "window": 6,
    "precision": "fp32",
}
SHORT: dict[str, Any] = {
    "autoencoder_batch_size": 4,
    "batch_size": 2,
    "slice_generator_batch_size": 2,
    "copies": 2,
    "sample_steps": 2,
    "size": [20, 18],
    "progress": False,
    "val_interval": 1,
}


class StoppedError(Exception):
    """Stands for a process that ends between two iterations."""


def content(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")))


def handler(kind: str, target: str) -> str:
    """Where a training has the handler of that class or function."""
    targets = [entry["_target_"] for entry in content(kind)["train"]["handlers"]]
    (index,) = [i for i, name in enumerate(targets) if name.endswith("." + target)]
    return f"train#handlers#{index}"


def workflow(kind: str, out: Path, preset: str | None = None, **changes: Any) -> Any:
    """A small config that is ready to run; tracking takes seconds and stays out."""
    overrides = SMALL | {"output_dir": str(out)}
    if kind in TRAININGS:
        overrides |= SHORT | {"max_iterations": 2, handler(kind, "Resume") + "#every": 2}
        overrides[handler(kind, "Tracking") + "#_disabled_"] = True
    files = [str(CONFIGS / f"{kind}.yaml")] + ([str(PRESETS / f"{preset}.yaml")] if preset else [])
    purpose = "train" if kind in TRAININGS else "infer"
    meta = changes.pop("meta_file", None)
    made = ConfigWorkflow(
        files,
        workflow_type=purpose,
        logging_file=False,
        meta_file=meta,
        **(overrides | changes),
    )
    made.initialize()
    return made


def run(kind: str, out: Path, **changes: Any) -> None:
    with plain_errors():
        made = workflow(kind, out, **changes)
        made.run()
        made.finalize()


def state(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the four trainings leave after two iterations each, run from another folder."""
    out = tmp_path_factory.mktemp("trained")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        for kind in TRAININGS:
            run(kind, out)
    assert not list(elsewhere.iterdir())
    return out


# ---- trainings


def test_every_training_leaves_weights_logs_and_pictures(trained: Path) -> None:
    for folder in ("autoencoder", "slice", "slice_generator", "volume"):
        names = {path.name for path in (trained / folder).iterdir()}
        assert names >= {"checkpoints", "val_log.jsonl", "samples"}, folder
        assert [p.name for p in (trained / folder / "samples").iterdir()] == ["000002.png"]
        (line,) = (trained / folder / "val_log.jsonl").read_text(encoding="utf-8").splitlines()
        record = json.loads(line)
        assert record["iteration"] == 2
        assert any(key.startswith("val_") for key in record)
    for folder in (".", "autoencoder", "slice", "slice_generator"):
        card = read_card(trained / folder / "model.pt")
        assert (card["schema"], card["preset"], card["iterations"]) == ("brain4", "tiny", 2)
    assert {"ssim", "psnr"} <= set(
        json.loads((trained / "volume" / "val_log.jsonl").read_text(encoding="utf-8"))
    )


def test_the_model_is_made_of_the_parts(trained: Path) -> None:
    whole = state(trained / "model.pt")
    for prefix, folder in (("autoencoder", "autoencoder"), ("slice_generator", "slice_generator")):
        for key, value in state(trained / folder / "model.pt").items():
            assert torch.equal(whole[f"{prefix}.{key}"], value), key
    for part in ("volume", "slice_generator"):
        assert torch.equal(whole[f"{part}.latent_std"], whole["autoencoder.latent_std"])


def test_volumetric_tuning_changed_no_weight_of_the_slice_network(trained: Path) -> None:
    whole, slices = (state(trained / p) for p in ("model.pt", "slice/model.pt"))
    tuned = {k.removeprefix("volume.") for k in whole if k.startswith("volume.")}
    for key, value in slices.items():
        assert torch.equal(whole[f"volume.{key}"], value), key
    new = tuned - slices.keys()
    assert new
    assert all(".along.conv." in key or ".slice_attention." in key for key in new)
    first = whole["volume.unet.stem.along.conv.weight"]
    assert not torch.equal(first.float(), torch.nn.init.dirac_(first.float().clone()))


def test_the_latent_scale_is_that_of_the_training_scans(trained: Path) -> None:
    made = workflow("train_slice", trained)
    autoencoder = made.parser.get_parsed_content("autoencoder")
    volumes = made.parser.get_parsed_content("train#volumes")
    with torch.no_grad():
        z = autoencoder.encode(torch.cat(list(volumes.images))[:, None])
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=0.02, rtol=0)  # fp16
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=0.02, rtol=0)


def test_the_training_has_the_properties_that_monai_asks_for(trained: Path) -> None:
    """It begins from what the trainings before it left."""
    made = workflow("train", trained, meta_file=str(CONFIGS / "metadata.json"))
    assert not made.check_properties()


@pytest.fixture(scope="module")
def other(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the same autoencoder and nothing else yet."""
    out = tmp_path_factory.mktemp("other")
    (out / "autoencoder").symlink_to(trained / "autoencoder")
    return out


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(trained: Path, other: Path) -> None:
    words: dict[str, Any] = {
        "autoencoder_weights": str(trained / "autoencoder" / "model.pt"),
        "max_iterations": 4,
        "val_interval": 100,
    }
    run("train_slice", other / "whole", **words)
    first = workflow("train_slice", other / "parts", **words)
    trainer = first.parser.get_parsed_content("train#trainer")

    def stop() -> None:
        raise StoppedError

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), stop)
    with pytest.raises(StoppedError):
        run_trainer(trainer)
    assert not (other / "parts" / "slice" / "model.pt").exists()
    resumed = workflow("train_slice", other / "parts", **words)
    assert resumed.parser.get_parsed_content("train#trainer").state.iteration == 2
    resumed.run()
    whole, parts = (state(other / name / "slice" / "model.pt") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    short = state(trained / "slice" / "model.pt")
    assert any(not torch.equal(whole[key], short[key]) for key in whole)  # it does learn


@pytest.mark.parametrize(
    ("kind", "earlier"),
    [
        ("train_slice", "train_autoencoder"),
        ("train_slice_generator", "train_autoencoder"),
        ("train", "train_slice"),
    ],
)
def test_a_missing_earlier_training_is_named(
    kind: str, earlier: str, trained: Path, tmp_path: Path
) -> None:
    if earlier != "train_autoencoder":
        (tmp_path / "autoencoder").symlink_to(trained / "autoencoder")
    with pytest.raises(
        MedpairError, match=rf"run {earlier}\.yaml with the same output_dir"
    ) as error:
        run(kind, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.pt")) or earlier == "train_slice"


def test_a_missing_slice_generator_is_named_and_can_be_left_out(
    trained: Path, tmp_path: Path
) -> None:
    for folder in ("autoencoder", "slice"):
        (tmp_path / folder).symlink_to(trained / folder)
    with pytest.raises(MedpairError, match=r"run train_slice_generator\.yaml"):
        run("train", tmp_path)
    run("train", tmp_path, slice_generator_weights=None, val_interval=100)
    assert not any(key.startswith("slice_generator.") for key in state(tmp_path / "model.pt"))


def test_a_new_autoencoder_wants_new_slice_weights(trained: Path, tmp_path: Path) -> None:
    for folder in ("slice", "slice_generator"):
        (tmp_path / folder).symlink_to(trained / folder)
    run("train_autoencoder", tmp_path, seed=5, val_interval=100)
    with pytest.raises(MedpairError, match=r"latent scale .*use the autoencoder of the same train"):
        run("train", tmp_path)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "thorax7"}, r"schema 'brain4' .*the config is for 'thorax7'"),
        ({"num_classes": 5}, r"schema 'brain4' \(6 classes\), the config is for 'brain4' \(5\)"),
        ({"mask_code": "rgb"}, r"mask_code: 'rgb'"),
        ({"mask_injection": "clip"}, r"mask_injection: 'clip'"),
        ({"window": 1}, r"window 1, batch_size 2; want window >= 2"),
        ({"both_dropout": 0.9}, r"want shares >= 0 with a sum <= 1"),
        ({"precision": "half"}, r"precision is 'half'"),
        ({"dataset_dir": "/no/such/set"}, r"no pair set"),
        ({"autoencoder_channels": [8, 8]}, r"2 levels, wanted 3"),
        ({"latent_channels": 8}, r"does not fit this network"),
    ],
)
def test_a_config_that_cannot_work_says_so(
    changes: dict[str, Any], message: str, trained: Path, tmp_path: Path
) -> None:
    words = {"autoencoder_weights": str(trained / "autoencoder" / "model.pt")} | changes
    with pytest.raises(MedpairError, match=message) as error:
        run("train_slice", tmp_path, **words)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_code": "grey", "mask_injection": "spade", "informed_injection": "cross_attention"},
        {"mask_injection": "controlnet", "known_channel": True, "inpaint_share": 0.5},
        {"informed_injection": "none", "mask_code": "fractions", "contour": False},
    ],
)
def test_other_ways_train_in_both_stages_and_sample(
    changes: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    for folder in ("autoencoder", "slice_generator"):
        (tmp_path / folder).symlink_to(trained / folder)
    for kind in ("train_slice", "train"):
        run(kind, tmp_path, max_iterations=1, val_interval=100, **changes)
    words = {k: v for k, v in changes.items() if k != "inpaint_share"}
    made = images(tmp_path, tmp_path / "out", **words)
    assert np.isfinite(made.read(made.ids()[0]).image).all()


# ---- images and report


def images(trained: Path, out: Path, **changes: Any) -> PairSet:
    words: dict[str, Any] = {"weights": str(trained / "model.pt"), "num_steps": 2} | changes
    run("inference", out, **words)
    return PairSet.open(out)


@pytest.mark.parametrize("informed", ["own", "cross", "generated"])
def test_inference_writes_an_image_for_each_held_back_mask(
    informed: str, trained: Path, tmp_path: Path
) -> None:
    made = images(trained, tmp_path / "out", informed=informed)
    data = load_arrays(PHANTOM, "validation")
    assert made.ids() == tuple(sorted(data.ids))
    for name, label in zip(data.ids, data.labels, strict=True):
        pair = made.read(name)
        np.testing.assert_array_equal(pair.label, label)
        assert pair.image.shape == label.shape
        assert 0 <= pair.image.min() < pair.image.max() <= 1


def test_equal_seeds_give_equal_images(trained: Path, tmp_path: Path) -> None:
    one, again, other = (
        images(trained, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    name = one.ids()[0]
    np.testing.assert_array_equal(one.read(name).image, again.read(name).image)
    assert (one.read(name).image != other.read(name).image).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "/no/model.pt"}, r"no such weight file"),
        ({"preset": "small"}, r"weights of preset 'tiny', wanted 'small'"),
        ({"dataset_dir": "phantom:thorax7:16x16x16:1"}, r"schema 'thorax7'"),
        ({"slice": 99}, r"slice: 99; want 0\.\.15"),
        ({"overlap": 6}, r"overlap"),
        ({"slice_generator_def": None}, r"differ in the slice generator"),
    ],
)
def test_inference_that_cannot_be_leaves_nothing(
    changes: dict[str, Any], message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedpairError, match=message) as error:
        images(trained, tmp_path / "out", **changes)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_evaluation_reports_on_the_images(trained: Path, tmp_path: Path) -> None:
    words = {"weights": str(trained / "model.pt"), "num_steps": 2, "segmenter": None}
    run("evaluate", tmp_path, **words)
    report = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert report["n"] == len(load_arrays(PHANTOM, "validation").ids)
    assert report["fidelity"]["mean"]["3D"]["psnr"] > 0
    assert isinstance(report["seam_index"], float)
    assert (tmp_path / "evaluation.png").exists()


def test_released_behaviour_is_there_as_options(trained: Path, tmp_path: Path) -> None:
    usual = images(trained, tmp_path / "a", sampler_name="ddim")
    official = images(
        trained,
        tmp_path / "b",
        sampler_name="ddim",
        eta=1.0,
        known_noise="official",
        tail="official",
    )
    name = usual.ids()[0]
    assert (usual.read(name).image != official.read(name).image).any()


# ---- what the files say


def parsed(kind: str, preset: str | None, *keys: str) -> list[Any]:
    changes = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text()) if preset else {}
    parser = ConfigParser(content(kind) | changes)
    return [parser.get_parsed_content(key) for key in keys]


SHARED = (
    *("schema", "preset", "num_classes", "window", "mask_code", "contour", "prediction"),
    *("schedule", "autoencoder_channels", "latent_channels", "autoencoder_res_blocks"),
    *("channels", "embedding", "num_res_blocks", "attention_levels", "mask_injection"),
    *(
        "informed_injection",
        "style",
        "offset",
        "position",
        "known_channel",
        "slice_generator_channels",
    ),
    *("slice_generator_embedding", "slice_generator_res_blocks", "slice_generator_def"),
)


def test_all_configs_name_the_same_networks_and_diffusion() -> None:
    files = (*TRAININGS, "inference", "evaluate", "enhance", "counterfactual", "harmonise")
    contents = {name: content(name) for name in files}
    for key in SHARED:
        found = {name: c[key] for name, c in contents.items() if key in c}
        assert len(found) >= 5, key
        assert all(value == found["inference"] for value in found.values()), key


def test_the_two_stages_differ_as_the_paper_says() -> None:
    one, two, paper = content("train_slice"), content("train"), content("../presets/paper")
    assert (one["times"], two["times"]) == ("slice", "window")
    assert two["tune"] == "slice_layers"
    assert one["network_def"] | {"volumetric": True} == two["network_def"]
    assert paper["low_noise"]  # of stage 2 alone, as in the released code
    assert "low_noise" in two["diffusion"]
    assert "low_noise" not in one["diffusion"]


def test_a_preset_sizes_the_batches_of_windows_alone() -> None:
    """Slices and whole volumes have keys of their own; a preset's windows do not fit them."""
    own = {
        "train_slice_generator": ("slice_generator_batch_size", 32),
        "train_pix2pix": ("pix2pix_batch_size", 1),
        "train_ldm3d": ("ldm3d_batch_size", 2),
    }
    for kind, (key, default) in own.items():
        text = (CONFIGS / f"{kind}.yaml").read_text(encoding="utf-8")
        assert content(kind)[key] == default
        assert "@batch_size" not in text
        assert "batch_size" not in content(kind)
        assert f"@{key}" in text


def test_only_the_whole_model_has_weights_at_half_time() -> None:
    """Parts do without: the autoencoder has no scale of its latents before it is trained."""
    for kind in TRAININGS:
        (export,) = [
            entry
            for entry in content(kind)["train"]["handlers"]
            if entry["_target_"].split(".")[-1] in ("ExportWeights", "ExportModel")
        ]
        assert export.get("half", True) == (kind == "train")


def test_multi_gpu_training_silences_all_but_the_first_process() -> None:
    overlay = (CONFIGS / "multi_gpu_train.yaml").read_text(encoding="utf-8")
    silenced = [line.split("::_dis")[0] for line in overlay.splitlines() if "_disabled_" in line]
    writers = {"LossLog", "Tracking", "ExportWeights", "ExportModel", "MetricLog"}
    writers |= {"SampleVolumes", "SampleSlices"}
    for kind in ("train_slice", "train_slice_generator", "train"):
        config = content(kind)
        names = {
            f"{part}::handlers::{number}": entry["_target_"].split(".")[-1]
            for part in ("train", "validate")
            for number, entry in enumerate(config[part]["handlers"])
        }
        assert {key for key, name in names.items() if name in writers} == set(silenced)


def test_the_tiny_model_fits_into_ten_megabytes() -> None:
    (network,) = parsed("inference", None, "network_def")
    assert 2 * sum(p.numel() for p in network.parameters()) < 10e6  # fp16


def test_defaults_stand_alone() -> None:
    """The sizes of the defaults fit the phantoms that they are tried on."""
    config = content("train_slice_generator")
    assert config["dataset_dir"].split(":")[2] == "48x40x40"
    assert config["size"] == [40, 40]
