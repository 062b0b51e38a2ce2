"""Small networks and volumes of GEM-3D.

B windows, S slices per window, D slices per volume, C latent channels, M mask channels, H, W image
size, h, w latent size.
"""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from common.diffusion.schedules import build_schedule
from gem3d.autoencoder import SliceAutoencoder
from gem3d.conditions import MaskEncoding
from gem3d.generate import VolumeGenerator
from gem3d.model import Gem3D
from gem3d.network import VolumeDenoiser
from gem3d.sampler import LatentSampler
from gem3d.slice_generator import SliceGenerator
from gem3d.volumes import Volumes

M = TypeVar("M", bound=nn.Module)
NUM_CLASSES = 6
CHANNELS = 4
LUT = torch.arange(NUM_CLASSES)
SCHEDULE = build_schedule("scaled_linear", 1000, beta_start=0.00085, beta_end=0.012)


def randomise(module: M, seed: int = 0, scale: float = 0.1) -> M:
    """Give every parameter random values, the zero-initialised ones too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return module.eval()


def make_autoencoder(**kw: Any) -> SliceAutoencoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"channels": (8, 8, 8), "latent_channels": CHANNELS}
    network = SliceAutoencoder(**(settings | kw)).eval()
    network.fit_scale(torch.rand(8, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    return network.requires_grad_(False)


def make_encoding(**kw: Any) -> MaskEncoding:
    settings: dict[str, Any] = {"num_classes": NUM_CLASSES, "factor": 4, "code": "fractions"}
    return MaskEncoding(**(settings | kw))


def make_denoiser(mask_channels: int = NUM_CLASSES + 1, **kw: Any) -> VolumeDenoiser:
    """A network as it is initialised."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"channels": [8, 16], "embedding": 16, "mask_hidden": 8}
    settings |= {"attention_levels": [False, True]}
    return VolumeDenoiser(CHANNELS, mask_channels, **(settings | kw)).eval()


def make_slice_generator(**kw: Any) -> SliceGenerator:
    settings: dict[str, Any] = {"channels": [8, 16], "embedding": 16, "position_width": 16}
    return randomise(SliceGenerator(CHANNELS, **(settings | kw)))


def make_model(*, slice_generator: bool = True) -> Gem3D:
    """All networks with random weights, on one latent scale."""
    autoencoder, volume = make_autoencoder(), randomise(make_denoiser())
    drawn = make_slice_generator() if slice_generator else None
    for part in (volume, drawn):
        if part is not None:
            part.latent_std.copy_(autoencoder.latent_std)
    return Gem3D(autoencoder, volume, drawn).eval()


def make_generator(network: Gem3D | None = None, chunk: int = 64, **kw: Any) -> VolumeGenerator:
    settings: dict[str, Any] = {"window": 6, "num_steps": 2, "precision": "fp32"}
    settings |= {"sampler": "dpm_solver_pp_2m"}
    sampler = LatentSampler(SCHEDULE, **(settings | kw))
    return VolumeGenerator(network or make_model(), make_encoding(), sampler, chunk)


def make_volumes(count: int = 2, size: tuple[int, int, int] = (9, 16, 12), **kw: Any) -> Volumes:
    """Volumes in which every slice is different."""
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(size, generator=generator) * 2 - 1 for _ in range(count)]
    return Volumes(images, [make_label(size, n) for n in range(count)], LUT, NUM_CLASSES, **kw)


def make_label(size: tuple[int, int, int], seed: int = 0) -> Tensor:
    """A random mask (D, H, W), uint8, without labels on the frame of each slice."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, NUM_CLASSES, size, generator=generator, dtype=torch.uint8)
    label[:, [0, -1]], label[:, :, [0, -1]] = 0, 0
    return label


class Make:
    """What the tests of this folder are made of."""

    schedule = SCHEDULE
    num_classes = NUM_CLASSES
    channels = CHANNELS
    randomise = staticmethod(randomise)
    autoencoder = staticmethod(make_autoencoder)
    encoding = staticmethod(make_encoding)
    denoiser = staticmethod(make_denoiser)
    slice_generator = staticmethod(make_slice_generator)
    model = staticmethod(make_model)
    generator = staticmethod(make_generator)
    volumes = staticmethod(make_volumes)
    label = staticmethod(make_label)


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make
