"""The networks that segment, by name; all take images (V, 1, D, H, W) and give class logits.

V volumes, K classes, D, H, W volume size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import UNETR, SwinUNETR, UNet
from torch import Tensor, nn

from common.engines.weights import load_weights, read_card
from common.errors import MedpairError
from common.networks.strict import refuse_misfits

Options = Mapping[str, Any]
Sizes = Mapping[str, Options]
"""The options of each architecture by its name."""

UNETR_PATCH = 16
CHANNELS_LAST_FROM = 16
"""Channels of the narrowest level."""
FIRST = "unet3d"
"""What weights are whose card names no architecture: there was no other."""

FEATURE_LAYERS = {
    "unet3d": "model.1.submodule.0",
    "unet2d": "unet.model.1.submodule.0",
    "unetr": "encoder2",
    "swin_unetr": "encoder2",
}


def build_network(architecture: str, num_classes: int, sizes: Sizes) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        architecture: "unet3d", "unet2d" (slice by slice along D), "unetr" or "swin_unetr".
        num_classes: K, background included.
        sizes: per architecture the options of MONAI's class: ``channels`` and ``strides`` of the
            U-Nets, ``img_size`` of UNETR, ``feature_size`` of Swin-UNETR, and the like.

    Raises:
        MedpairError: for an unknown architecture, or options that make no network.
    """
    options = _options(architecture, sizes)
    try:
        network = _BUILDERS[architecture](num_classes, **options)
    except (TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise MedpairError(
            f"sizes#{architecture}: {dict(options)} makes no network ({reason}); correct it"
        ) from error
    refuse_misfits(network)
    return network


def multiple_of(architecture: str, sizes: Sizes) -> int | list[int]:
    """Return what the sides of a network's volumes must be multiples of, one number or D, H, W.

    Args:
        architecture: as for `build_network`.
        sizes: as for `build_network`.

    Raises:
        MedpairError: for an unknown architecture or missing options.
    """
    options = _options(architecture, sizes)
    try:
        if architecture == "unetr":  # made for one size: the multiple is the size itself
            return [int(n) for n in options["img_size"]]
        if architecture == "swin_unetr":
            return int(options.get("patch_size", 2)) ** 5
        stride = math.prod(int(n) for n in options["strides"])
    except (KeyError, TypeError) as error:
        raise MedpairError(
            f"sizes#{architecture}: {dict(options)} lacks {error}; add it"
        ) from error
    return stride if architecture == "unet3d" else [1, stride, stride]


def feature_layer(architecture: str) -> str:
    """Return the name of the part that gives features: encoder level 1, voxels twice as long.

    Raises:
        MedpairError: for an unknown architecture.
    """
    _check_name(architecture)
    return FEATURE_LAYERS[architecture]


def place(network: nn.Module, device: str | torch.device) -> nn.Module:
    """Return the network on a device, in the memory format that its convolutions are fast in."""
    placed: Any = network.to(device)
    # narrower levels fill no vector: 8 channels took 1.6 times as long in channels_last on a CPU
    if isinstance(network, UNet) and min(network.channels) >= CHANNELS_LAST_FROM:
        placed = placed.to(memory_format=torch.channels_last_3d)
    if isinstance(network, SliceUNet):
        placed = placed.to(memory_format=torch.channels_last)
    found: nn.Module = placed
    return found


def start_network(
    network: nn.Module,
    device: str | torch.device,
    architecture: str,
    schema: str,
    initial_weights: str | None = None,
) -> nn.Module:
    """Return a network ready for training.

    Args:
        network: from `build_network`.
        device: where it goes.
        architecture: its name.
        schema: name of the label schema that it is trained for.
        initial_weights: weight file to start from; None keeps the fresh weights.

    Raises:
        MedpairError: for initial weights of another architecture, schema or size.
    """
    placed = place(network, device)
    if initial_weights is None:
        return placed
    return load_network(placed, initial_weights, architecture, schema, device=device)


def load_network(
    network: nn.Module,
    path: str,
    architecture: str,
    schema: str,
    preset: str | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Return a network with weights from a file, in eval mode.

    Args:
        network: from `build_network`.
        path: the ``.pt`` file.
        architecture: the network's name, compared with the card.
        schema: wanted label schema, compared with the card.
        preset: wanted preset, compared with the card; None takes any that fits.
        device: where it goes.

    Raises:
        MedpairError: for a missing or damaged file, or weights of something else.
    """
    card = read_card(Path(path))
    found = card.get("architecture", FIRST) if card else architecture
    if found != architecture:
        raise MedpairError(
            f"{path}: weights of architecture {found!r}, wanted {architecture!r}; "
            f"use --architecture {found} or weights trained for {architecture}"
        )
    return load_weights(place(network, device), path, schema=schema, preset=preset, device=device)


class SliceUNet(nn.Module):
    """A 2D U-Net that sees the slices of a volume along D one by one.

    Args:
        num_classes: K.
        **options: of `monai.networks.nets.UNet`.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__()
        self.unet = _unet(num_classes, spatial_dims=2, **options)

    def forward(self, image_V1DHW: Tensor) -> Tensor:
        """Return logits (V, K, D, H, W)."""
        volumes, _, depth, *plane = image_V1DHW.shape
        slices = image_V1DHW.transpose(1, 2).reshape(volumes * depth, 1, *plane)
        logits: Tensor = self.unet(slices)
        logits_VKDHW: Tensor = logits.unflatten(0, (volumes, depth)).transpose(1, 2)
        return logits_VKDHW


class SizedUNETR(UNETR):
    """MONAI's UNETR, which says in one line what size it was made for.

    Args:
        num_classes: K.
        img_size: (D, H, W), multiples of 16.
        **options: of `monai.networks.nets.UNETR`.
    """

    def __init__(self, num_classes: int, img_size: Any, **options: Any) -> None:
        wanted = tuple(int(n) for n in img_size)
        if len(wanted) != 3 or any(n < 1 or n % UNETR_PATCH for n in wanted):
            raise ValueError(f"img_size {list(img_size)}, wanted D, H, W, multiples of 16")
        super().__init__(1, num_classes, wanted, **options)
        self.wanted = wanted

    def forward(self, x_in: Tensor) -> Tensor:
        """Return logits (V, K, D, H, W)."""
        if tuple(x_in.shape[2:]) != self.wanted:
            raise MedpairError(
                f"image: padded size {tuple(x_in.shape[2:])}, this UNETR was made for "
                f"{self.wanted}; set roi_size to {list(self.wanted)}, or train one with another "
                "sizes#unetr#img_size"
            )
        logits: Tensor = super().forward(x_in)
        return logits


class NamedSwinUNETR(SwinUNETR):
    """MONAI's Swin-UNETR, which says in one line what volumes it cannot take.

    Args:
        num_classes: K.
        **options: of `monai.networks.nets.SwinUNETR`.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(1, num_classes, **options)

    def forward(self, x_in: Tensor) -> Tensor:
        """Return logits (V, K, D, H, W)."""
        try:
            logits: Tensor = super().forward(x_in)
        except ValueError as error:  # no multiple of 32, or one voxel to normalise over
            reason = " ".join(str(error).split())[:120]
            raise MedpairError(
                f"image: padded size {tuple(x_in.shape[2:])}, which Swin-UNETR cannot take "
                f"({reason}); for small volumes set sizes#swin_unetr#norm_name to "
                "[group, {num_groups: 4}]"
            ) from error
        return logits


def _unet(num_classes: int, **options: Any) -> nn.Module:
    groups = 2 if num_classes % 2 == 0 else 1  # the last unit normalises the K class channels
    norm = ("group", {"num_groups": groups})
    settings = {"num_res_units": 2, "act": "LEAKYRELU", "norm": norm}
    network: nn.Module = UNet(in_channels=1, out_channels=num_classes, **{**settings, **options})
    return network


def _unet3d(num_classes: int, **options: Any) -> nn.Module:
    return _unet(num_classes, spatial_dims=3, **options)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "unet3d": _unet3d,
    "unet2d": SliceUNet,
    "unetr": SizedUNETR,
    "swin_unetr": NamedSwinUNETR,
}
ARCHITECTURES = tuple(_BUILDERS)


def _check_name(architecture: str) -> None:
    if architecture not in _BUILDERS:
        raise MedpairError(
            f"architecture: {architecture!r} is unknown; choose {', '.join(_BUILDERS)}"
        )


def _options(architecture: str, sizes: Sizes) -> Options:
    _check_name(architecture)
    if architecture not in sizes:
        raise MedpairError(f"sizes: none for {architecture!r}; add sizes#{architecture}")
    return sizes[architecture]
