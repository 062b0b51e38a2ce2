"""All networks as one, and the pieces that its trainings start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from common.engines.weights import read_card, save_weights
from common.errors import MedpairError
from gem3d.model import ExportModel, Gem3D, load_model, on_latents, trainable

CARD = {"schema": "brain4", "preset": "tiny", "seed": 3}


def test_the_model_comes_back_from_its_file(make: Any, tmp_path: Path) -> None:
    model = make.model()
    save_weights(model, tmp_path / "model.pt", CARD)
    fresh = Gem3D(make.autoencoder(), make.denoiser(), make.slice_generator())
    loaded = load_model(fresh, str(tmp_path / "model.pt"), "brain4", "tiny", "cpu")
    assert loaded is fresh
    assert not any(part.training for part in loaded.modules())
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].half().float())


@pytest.mark.parametrize("part", ["volume", "slice_generator"])
def test_parts_of_another_latent_scale_are_refused(part: str, make: Any, tmp_path: Path) -> None:
    model = make.model()
    getattr(model, part).latent_std.mul_(1.1)
    with pytest.raises(MedpairError, match="autoencoder: latent scale") as error:
        model.check()
    assert "\n" not in str(error.value)
    save_weights(model, tmp_path / "model.pt", CARD)
    with pytest.raises(MedpairError, match="use the autoencoder of the same training"):
        load_model(make.model(), str(tmp_path / "model.pt"), "brain4", "tiny", "cpu")


def test_weights_without_a_slice_generator_want_a_model_without_one(
    make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    save_weights(make.model(slice_generator=False), path, CARD)
    loaded = load_model(make.model(slice_generator=False), str(path), "brain4", "tiny", "cpu")
    assert loaded.slice_generator is None
    with pytest.raises(MedpairError, match="set slice_generator_def to null"):
        load_model(make.model(), str(path), "brain4", "tiny", "cpu")


def test_a_network_remembers_the_scale_of_its_latents(make: Any) -> None:
    autoencoder, network = make.autoencoder(), make.denoiser()
    assert not torch.equal(network.latent_std, autoencoder.latent_std)
    assert on_latents(network, autoencoder, "cpu") is network
    assert torch.equal(network.latent_std, autoencoder.latent_std)
    with pytest.raises(MedpairError, match=r"latent_channels: 4 in network_def; want 8"):
        on_latents(network, make.autoencoder(latent_channels=8), "cpu")


def test_frozen_parameters_are_not_trained(make: Any) -> None:
    network = make.denoiser()
    first, *others = network.parameters()
    first.requires_grad_(False)
    assert len(trainable(network)) == len(others)
    assert not trainable(make.autoencoder())


def export(make: Any, path: Path, weights: str | None, **kw: Any) -> ExportModel:
    model = make.model(slice_generator=False)
    parts = {"autoencoder": model.autoencoder, "volume": model.volume} | kw
    return ExportModel(
        **parts,
        path=str(path),
        card=CARD,
        slice_generator=make.slice_generator(),
        slice_generator_weights=weights,
    )


@pytest.mark.parametrize("with_generator", [True, False])
def test_the_export_holds_all_parts(with_generator: bool, make: Any, tmp_path: Path) -> None:
    model = make.model()
    save_weights(model.slice_generator, tmp_path / "g.pt", CARD)
    path, trainer = tmp_path / "out" / "model.pt", Engine(lambda e, b: None)
    weights = str(tmp_path / "g.pt") if with_generator else None
    export(make, path, weights).attach(trainer)
    assert not path.exists()
    trainer.run([0] * 4)
    assert read_card(path)["iterations"] == 4
    fresh = make.model(slice_generator=with_generator)
    loaded = load_model(fresh, str(path), "brain4", "tiny", "cpu")
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].half().float())


def test_a_missing_slice_generator_is_said_before_the_training(make: Any, tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match=r"run train_slice_generator\.yaml with the same output"):
        export(make, tmp_path / "model.pt", str(tmp_path / "g.pt"))


def test_a_slice_generator_of_another_latent_scale_is_refused_before_the_training(
    make: Any, tmp_path: Path
) -> None:
    old = make.slice_generator()
    old.latent_std.fill_(7.0)
    save_weights(old, tmp_path / "g.pt", CARD)
    with pytest.raises(MedpairError, match="latent scale"):
        export(make, tmp_path / "model.pt", str(tmp_path / "g.pt"))
