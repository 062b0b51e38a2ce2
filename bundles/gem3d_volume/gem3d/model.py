"""All networks of GEM-3D as one, with one weight file; the pieces that its trainings start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from common.engines.device import on_device
from common.engines.weights import ExportWeights, load_weights
from common.errors import MedpairError
from common.networks.single import LAST_STEP, SingleInput, label_volumes
from gem3d.autoencoder import SliceAutoencoder
from gem3d.conditions import MaskEncoding, check_scale, informed_maps
from gem3d.network import VolumeDenoiser, slice_layer_parameters
from gem3d.slice_generator import SliceGenerator

TUNED = ("slice_layers", "all")


class OnLatents(Protocol):
    """A network that works on latents and remembers their scale."""

    latent_channels: int
    latent_std: Tensor


class Gem3D(SingleInput):
    """Autoencoder, volume denoiser and slice generator.

    Args:
        autoencoder: slices to latents and back.
        volume: the volume denoiser.
        slice_generator: the generator of informed slices; None where none was trained.
        encoding: masks on the latent grid, which `single` wants.
    """

    def __init__(
        self,
        autoencoder: SliceAutoencoder,
        volume: VolumeDenoiser,
        slice_generator: SliceGenerator | None = None,
        encoding: MaskEncoding | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder, self.volume, self.slice_generator = autoencoder, volume, slice_generator
        self.encoding = encoding

    def single(self, image: Tensor) -> Tensor:
        """Return the mean images (B, 1, D, H, W) of masks (B, 1, D, H, W), without informed slice.

        At the noisiest step v is -x_0, so this holds for networks that predict v.
        """
        assert self.encoding is not None
        mask = self.encoding(label_volumes(image, self.encoding.num_classes))
        windows, slices, _, height, width = mask.shape
        x = torch.zeros(
            (windows, slices, self.volume.latent_channels, height, width), device=image.device
        )
        t = torch.full((windows,), LAST_STEP, device=image.device)
        no_slice = torch.zeros_like(informed_maps(x[:, 0]))
        position = (torch.arange(slices, device=image.device) / slices).expand(windows, -1)
        v = self.volume(x, t, mask, no_slice, torch.zeros_like(position), position)
        decoded = self.autoencoder.decode(-v.flatten(0, 1))
        return torch.unflatten(decoded, 0, (windows, slices)).transpose(1, 2)

    def forward(self, image: Tensor) -> Tensor:
        """Return what `single` does; the parts are what samplers call."""
        return self.single(image)

    def check(self) -> Gem3D:
        """Return the model.

        Raises:
            MedpairError: where its parts were trained on latents of different scale.
        """
        for part in (self.volume, self.slice_generator):
            if part is not None:
                check_scale(self.autoencoder, part)
        return self


def load_model(network: Gem3D, path: str, schema: str, preset: str, device: str) -> Gem3D:
    """Load the weights of all parts; arguments and errors as for `load_weights`."""
    try:
        loaded = load_weights(network, path, schema=schema, preset=preset, device=device)
    except MedpairError as error:
        if "slice_generator." not in str(error):
            raise
        raise MedpairError(
            f"{path}: the weights and the config differ in the slice generator; set "
            "slice_generator_def to null for weights without one, or to their sizes"
        ) from error
    assert isinstance(loaded, Gem3D)
    return loaded.check()


def load_autoencoder(
    network: SliceAutoencoder, path: str, schema: str, preset: str, device: str = "cpu"
) -> SliceAutoencoder:
    """Load a trained autoencoder, frozen.

    Raises:
        MedpairError: if it is missing or of another schema, preset or network.
    """
    if not Path(path).is_file():
        raise MedpairError(
            f"{path}: no autoencoder; run train_autoencoder.yaml with the same output_dir first, "
            "or set autoencoder_weights"
        )
    loaded = load_weights(network, path, schema=schema, preset=preset, device=device)
    assert isinstance(loaded, SliceAutoencoder)
    return loaded.requires_grad_(False)


def on_latents(
    network: VolumeDenoiser | SliceGenerator,
    autoencoder: SliceAutoencoder,
    device: str,
    channels_last: bool = True,
    compile: bool | str = False,
) -> nn.Module:
    """Return a network to be trained on the autoencoder's latents; it remembers their scale.

    Args:
        network: to be trained.
        autoencoder: makes the latents.
        device: where the network goes.
        channels_last: see `common.engines.device.on_device`.
        compile: see there.
    """
    take_scale(network, autoencoder)
    return on_device(network, device, channels_last, compile)


def take_scale(network: OnLatents, autoencoder: SliceAutoencoder) -> None:
    """Note the scale of the latents that a network is going to be trained on.

    Raises:
        MedpairError: if the two have different latent channels.
    """
    if network.latent_channels != autoencoder.latent_channels:
        raise MedpairError(
            f"latent_channels: {network.latent_channels} in network_def; want "
            f"{autoencoder.latent_channels}, those of the autoencoder"
        )
    network.latent_std.copy_(autoencoder.latent_std)


def volumetric_start(
    network: VolumeDenoiser,
    path: str,
    schema: str,
    preset: str,
    autoencoder: SliceAutoencoder,
    tune: str = "slice_layers",
) -> VolumeDenoiser:
    """Return a volume network that begins as a trained slice network (stage 2).

    Args:
        network: with layers along the slices, which are the identity.
        path: weights of the slice network.
        schema: wanted label schema.
        preset: wanted preset.
        autoencoder: the one that the slice network was trained with.
        tune: "slice_layers" (paper) freezes all others, "all" trains everything.

    Raises:
        MedpairError: if the weights are missing, of another network or of another latent scale.

    Source: GEM-3D §3.1, stage 2.
    """
    if tune not in TUNED:
        raise MedpairError(f"tune: {tune!r}; want one of {', '.join(TUNED)}")
    if not Path(path).is_file():
        raise MedpairError(
            f"{path}: no slice network; run train_slice.yaml with the same output_dir first, or "
            "set slice_weights"
        )
    new = {id(parameter) for parameter in slice_layer_parameters(network)}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in new}
    load_weights(network, path, schema=schema, preset=preset, may_lack=names)
    check_scale(autoencoder, network)
    if tune == "slice_layers":
        network.requires_grad_(False)
        for parameter in slice_layer_parameters(network):
            parameter.requires_grad_(True)
    return network.train()


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen, for an optimiser."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


class ExportModel(ExportWeights):
    """Write the weights of all parts as one file when the last training completes.

    As `ExportWeights` also at half time; then the other parts are the final ones.

    Args:
        autoencoder: with its weights.
        volume: the volume denoiser, usually the averaged one.
        path: the ``.pt`` file.
        card: entries of the card; the iteration is added.
        slice_generator: the network of the slice generator; None leaves it out.
        slice_generator_weights: its weight file.
    """

    def __init__(
        self,
        autoencoder: SliceAutoencoder,
        volume: VolumeDenoiser,
        path: str,
        card: Mapping[str, Any],
        slice_generator: SliceGenerator | None = None,
        slice_generator_weights: str | None = None,
    ) -> None:
        super().__init__(volume, path, card)
        self.autoencoder, self.volume, self.slice_generator = autoencoder, volume, None
        if slice_generator is not None and slice_generator_weights is not None:
            if not Path(slice_generator_weights).is_file():
                raise MedpairError(
                    f"{slice_generator_weights}: no slice generator; run "
                    "train_slice_generator.yaml with the same output_dir first, or set "
                    "slice_generator_weights and slice_generator_def to null"
                )
            self.slice_generator = load_weights(
                slice_generator,
                slice_generator_weights,
                schema=self.card["schema"],
                preset=self.card["preset"],
            )
            check_scale(autoencoder, self.slice_generator)  # now, not after the training

    def written(self) -> Gem3D:
        """Return the network of all parts."""
        assert self.slice_generator is None or isinstance(self.slice_generator, SliceGenerator)
        return Gem3D(self.autoencoder, self.volume, self.slice_generator).check()
