"""The slice autoencoder and its training: N slices, C latent channels, H, W slice size."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from common.data.datasets import load_arrays
from common.engines.weights import load_weights, save_weights
from common.errors import MedpairError
from gem3d.autoencoder import SliceAutoencoder
from gem3d.autoencoder_training import (
    AutoencoderLoss,
    FitLatentScale,
    Reconstruct,
    ReconstructionPicture,
    kl_divergence,
    prepare_reconstruction,
)
from gem3d.model import load_autoencoder
from gem3d.volumes import SliceBatches
from gem3d.windows import encode_volume

SCHEMA = {"schema": "brain4", "preset": "tiny"}


def slices(count: int = 5, height: int = 24, width: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize(("channels", "factor"), [((8, 8, 8), 4), ((8, 16, 16, 8), 8)])
@torch.no_grad()
def test_slices_shrink_by_the_factor_and_come_back(
    channels: tuple[int, ...], factor: int, make: Any
) -> None:
    network = make.autoencoder(channels=channels)
    z = network.encode(slices())
    assert network.factor == factor
    assert z.shape == (5, make.channels, 24 // factor, 16 // factor)
    image = network.decode(z)
    assert image.shape == (5, 1, 24, 16)
    assert network.decode(1e4 * z).abs().max() == 1  # clamped


@torch.no_grad()
def test_each_slice_is_encoded_on_its_own(make: Any) -> None:
    network, images = make.autoencoder(), slices()
    alone = torch.cat([network.encode(one[None]) for one in images])
    torch.testing.assert_close(network.encode(images), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("pixels", "sizes"), [(800, [2, 2, 1]), (1, [1] * 5), (10**6, [5])])
@torch.no_grad()
def test_large_volumes_are_encoded_a_few_slices_at_a_time(
    pixels: int, sizes: list[int], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = make.autoencoder(), slices()
    whole, encode, seen = network.encode(images), network.encode, []
    monkeypatch.setattr("gem3d.autoencoder.PIXELS", pixels)
    monkeypatch.setattr(network, "encode", lambda part: seen.append(len(part)) or encode(part))
    torch.testing.assert_close(encode_volume(network, images[:, 0]), whole)
    assert seen == sizes


def test_latents_have_mean_0_and_deviation_1_once_the_scale_is_fitted(make: Any) -> None:
    network = make.autoencoder(latent_channels=8)
    images = slices(200, seed=1)  # more than one chunk
    assert (network.encode(images).mean((0, 2, 3)).abs() > 1e-3).any()
    network.fit_scale(images)
    z = network.encode(images)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_scale_changes_latents_but_no_reconstruction(make: Any) -> None:
    network, images = make.autoencoder(), slices()
    before, image = network.encode(images), network.decode(network.encode(images))
    network.fit_scale(0.2 * images)
    assert (network.encode(images) - before).abs().max() > 0.1
    torch.testing.assert_close(network.decode(network.encode(images)), image, atol=1e-4, rtol=1e-4)
    mean = network.network.encode(images)[0]
    torch.testing.assert_close(image, network.network.decode(mean).clamp(-1, 1))


@torch.no_grad()
def test_a_channel_that_never_varies_does_not_divide_by_zero(make: Any) -> None:
    network = make.autoencoder()
    network.fit_scale(torch.zeros(3, 1, 16, 16))
    assert torch.isfinite(network.encode(slices())).all()
    assert network.latent_std.min() >= 1e-3


@torch.no_grad()
def test_the_scale_is_stored_with_the_weights(make: Any, tmp_path: Path) -> None:
    trained, path = make.autoencoder(), tmp_path / "model.pt"
    save_weights(trained, path, SCHEMA)
    fresh = SliceAutoencoder((8, 8, 8), make.channels)
    loaded = load_autoencoder(fresh, str(path), "brain4", "tiny")
    for name in ("latent_mean", "latent_std"):
        torch.testing.assert_close(loaded.get_buffer(name), trained.get_buffer(name).half().float())
    images = slices()
    torch.testing.assert_close(loaded.encode(images), trained.encode(images), atol=2e-2, rtol=0)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training


@pytest.mark.parametrize("size", [(23, 16), (24, 18)])
def test_a_size_that_does_not_fit_is_refused(size: tuple[int, int], make: Any) -> None:
    with pytest.raises(MedpairError, match=rf"slices of {size[0]}x{size[1]}, wanted multiples of"):
        make.autoencoder().encode(slices(1, *size))


@pytest.mark.parametrize("channels", [(8,), (8, 8), (8,) * 5])
def test_other_factors_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(MedpairError, match=rf"{len(channels)} levels, wanted 3 \(factor 4\) or 4"):
        SliceAutoencoder(channels)


def test_a_missing_autoencoder_names_the_training(make: Any, tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match=r"run train_autoencoder\.yaml with the same output_dir"):
        load_autoencoder(make.autoencoder(), str(tmp_path / "model.pt"), "brain4", "tiny")


def test_an_autoencoder_of_another_preset_is_refused(make: Any, tmp_path: Path) -> None:
    save_weights(make.autoencoder(), tmp_path / "model.pt", SCHEMA | {"preset": "small"})
    with pytest.raises(MedpairError, match="weights of preset 'small', wanted 'tiny'"):
        load_autoencoder(make.autoencoder(), str(tmp_path / "model.pt"), "brain4", "tiny")


# ---- its training


def test_the_divergence_is_that_of_normal_distributions() -> None:
    torch.manual_seed(0)
    mean, std = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) + 0.2
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl_divergence(mean, std), expected.mean())
    assert kl_divergence(torch.zeros(2), torch.ones(2)) == 0
    assert math.isfinite(float(kl_divergence(torch.zeros(2), torch.zeros(2))))


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    loss = AutoencoderLoss(kl=0.5, adversarial=2.0)
    image, made = slices(), slices(seed=1)
    mean, std = torch.full((5, 4, 6, 4), 3.0), torch.ones(5, 4, 6, 4)
    terms = loss.generator(image, (made, mean, std), None)
    l1 = (made - image).abs().mean()
    torch.testing.assert_close(terms["l1"], l1)
    torch.testing.assert_close(terms["loss"], l1 + 0.5 * 4.5)  # mean^2 / 2
    assert "adversarial" not in terms
    logits = torch.full((5, 1, 3, 2), 0.25)
    fooled = loss.generator(image, (made, mean, std), logits)
    torch.testing.assert_close(fooled["adversarial"], loss.fooling(logits))
    torch.testing.assert_close(fooled["loss"], terms["loss"] + 2 * fooled["adversarial"])
    assert loss.fooling(torch.ones(2, 1, 3, 2)) < loss.fooling(logits)  # real is 1


@pytest.mark.parametrize("path", [None, "/no/such/file.pth"])
def test_a_perceptual_term_without_weights_is_refused(path: str | None) -> None:
    with pytest.raises(MedpairError, match=r"perceptual_weights is .*set the weight of the perc"):
        AutoencoderLoss(perceptual=0.1, perceptual_weights=path)


@torch.no_grad()
def test_the_scale_is_fitted_to_the_scans_when_training_ends(make: Any) -> None:
    network, volumes = make.autoencoder(), make.volumes(copies=3)
    trainer = Engine(lambda e, b: None)
    seen = []
    FitLatentScale(network, volumes).attach(trainer)
    trainer.add_event_handler(Events.COMPLETED, lambda: seen.append(network.latent_std.clone()))
    trainer.run([0])
    z = network.encode(torch.cat(list(volumes.images))[:, None])
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(make.channels), atol=1e-4, rtol=0)
    assert torch.equal(seen[0], network.latent_std)  # before what is attached later: the export


@torch.no_grad()
def test_the_scale_of_large_scans_needs_some_of_their_slices(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, volumes = make.autoencoder(), make.volumes()
    slices = torch.cat(list(volumes.images))[:, None]
    pixels = slices.numel() // network.factor**2
    monkeypatch.setattr("gem3d.autoencoder_training.MOST_PIXELS", pixels // 3)
    trainer = Engine(lambda e, b: None)
    FitLatentScale(network, volumes).attach(trainer)
    trainer.run([0])
    z = network.encode(slices[::3])
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(make.channels), atol=1e-4, rtol=0)


def test_reconstruction_is_what_inference_does(make: Any) -> None:
    network, images = make.autoencoder(), slices()
    given, wanted = prepare_reconstruction({"image": images}, "cpu", False)
    assert given is wanted
    made = Reconstruct("fp32")(given, network)
    torch.testing.assert_close(made, network.decode(network.encode(images)))


def test_the_picture_takes_scans_of_any_size(make: Any, tmp_path: Path) -> None:
    data = load_arrays("phantom:brain4:16x18x17:1", "validation")
    batches = SimpleNamespace(iteration=7)
    drawer = ReconstructionPicture(make.autoencoder(), data, str(tmp_path), batches)  # type: ignore[arg-type]
    evaluator = Engine(lambda e, b: None)
    drawer.attach(evaluator)
    evaluator.run([0])
    assert (tmp_path / "samples" / "000007.png").stat().st_size > 500


def test_slices_to_reconstruct_are_slices_of_the_scans(make: Any) -> None:
    volumes = make.volumes()
    batch = SliceBatches(volumes, 6)(torch.Generator().manual_seed(0))
    known = torch.cat(list(volumes.images))
    for image, position in zip(batch["image"], batch["position"], strict=True):
        (found,) = (known == image).all(dim=(1, 2)).nonzero().flatten().tolist()
        assert float(position) == pytest.approx((found % 9) / 9)


def test_weights_come_back_into_another_network(make: Any, tmp_path: Path) -> None:
    save_weights(make.autoencoder(), tmp_path / "model.pt", SCHEMA)
    with pytest.raises(MedpairError, match="does not fit this network"):
        load_weights(SliceAutoencoder((8, 8, 8), 8), tmp_path / "model.pt")
