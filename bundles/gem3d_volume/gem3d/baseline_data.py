"""What the 3D baselines train on and are asked for: volumes, masks and, optionally, a true slice.

B samples, C channels, D, H, W volume size; d, h, w size of a patch or of a latent volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.engines.batches import Batch
from common.engines.weights import load_weights, read_card
from common.errors import MedpairError
from gem3d.autoencoder import SliceAutoencoder
from gem3d.conditions import check_scale, informed_maps
from gem3d.volumes import BACKGROUND, Volumes
from gem3d.windows import LatentVolumes


def slice_distance(index: int, depth: int, first: int = 0, count: int | None = None) -> Tensor:
    """Return the signed distance of slices from the informed slice, in volume depths, (d,).

    Args:
        index: number of the informed slice, 0..D-1.
        depth: D.
        first: first of the slices.
        count: how many; None for all from ``first`` on.
    """
    numbers = torch.arange(first, depth if count is None else first + count)
    return (numbers - index) / depth


def spread_slice(maps_Chw: Tensor, distance_d: Tensor) -> Tensor:
    """Return (C + 1, d, h, w): a slice repeated along the volume, and the distance from it."""
    channels, height, width = maps_Chw.shape
    depth = len(distance_d)
    repeated = maps_Chw[:, None].expand(channels, depth, height, width)
    distance = distance_d.to(maps_Chw)[None, :, None, None].expand(1, depth, height, width)
    return torch.cat([repeated, distance])


def pad_volume(volume: Tensor, size: Sequence[int], value: float = 0.0) -> Tensor:
    """Return (..., D, H, W) padded at the far ends to at least ``size``."""
    missing = [max(0, want - n) for n, want in zip(volume.shape[-3:], size, strict=True)]
    pad = [side for count in reversed(missing) for side in (0, count)]
    return F.pad(volume, pad, value=value) if any(pad) else volume


def pad_to_strides(volume: Tensor, strides: Sequence[int]) -> Tensor:
    """Return (..., D, H, W) padded with zeros at the far ends to multiples of ``strides``."""
    sizes = zip(volume.shape[-3:], strides, strict=True)
    return pad_volume(volume, [n + -n % stride for n, stride in sizes])


class PatchBatches:
    """Draw batches of patches of training scans, or of whole scans.

    Args:
        volumes: where they come from.
        batch_size: patches B per batch.
        patch: their size (d, h, w); smaller scans are padded with background. None: whole scans,
            of one size where B > 1.
    """

    def __init__(
        self, volumes: Volumes, batch_size: int, patch: Sequence[int] | None = None
    ) -> None:
        self.volumes, self.batch_size = volumes, batch_size
        self.patch = None if patch is None else tuple(patch)

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return one batch.

        Returns:
            ``image`` (B, 1, d, h, w) in [-1, 1], ``label`` (B, d, h, w) uint8, ``informed``
            (B, 2, d, h, w): a random slice of the scan and the distance from it, `spread_slice`.
        """
        return stack_samples([self._one(generator) for _ in range(self.batch_size)])

    def _one(self, generator: torch.Generator) -> dict[str, Tensor]:
        volume = self.volumes.draw(generator)
        depth = len(volume.image_DHW)
        index = int(torch.randint(depth, (), generator=generator))
        size = self.patch or tuple(volume.image_DHW.shape)
        image = pad_volume(volume.image_DHW, size, BACKGROUND)
        label = pad_volume(volume.label_DHW, size)
        cut = [
            slice(first := int(torch.randint(n - want + 1, (), generator=generator)), first + want)
            for n, want in zip(image.shape, size, strict=True)
        ]
        seen = image[index, cut[1], cut[2]][None]
        distance = slice_distance(index, depth, cut[0].start, size[0])
        informed = spread_slice(seen, distance)
        return {"image": image[*cut][None], "label": label[*cut], "informed": informed}


class LatentVolumeBatches:
    """Draw batches of whole latent volumes.

    Args:
        latents: where they come from.
        batch_size: volumes B per batch; of one size where B > 1.
    """

    def __init__(self, latents: LatentVolumes, batch_size: int) -> None:
        self.latents, self.batch_size = latents, batch_size

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return one batch.

        Returns:
            ``latent`` (B, C, D, h, w), ``label`` (B, D, H, W) uint8, ``informed``
            (B, C + 2, D, h, w): a random slice's latents, "present", the distance from it.
        """
        return stack_samples([self._one(generator) for _ in range(self.batch_size)])

    def _one(self, generator: torch.Generator) -> dict[str, Tensor]:
        latent_DChw, label_DHW = self.latents.draw(generator)
        depth = len(latent_DChw)
        index = int(torch.randint(depth, (), generator=generator))
        seen = informed_maps(latent_DChw[index][None])[0]
        informed = spread_slice(seen, slice_distance(index, depth))
        return {"latent": latent_DChw.transpose(0, 1), "label": label_DHW, "informed": informed}


def stack_samples(samples: Sequence[dict[str, Tensor]]) -> Batch:
    """Return samples as one batch.

    Raises:
        MedpairError: if they differ in size.
    """
    sizes = sorted({tuple(sample["label"].shape) for sample in samples})
    if len(sizes) > 1:
        raise MedpairError(
            f"a batch of {len(samples)} whole volumes of {sizes[0]} and {sizes[-1]}; want volumes "
            "of one size, patches, or batches of 1 (pix2pix_batch_size, ldm3d_batch_size)"
        )
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def load_baseline(
    network: nn.Module,
    path: str,
    schema: str,
    preset: str,
    device: str | torch.device = "cpu",
    autoencoder: SliceAutoencoder | None = None,
) -> nn.Module:
    """Load a baseline's weights, in eval mode.

    Args:
        network: its network, with the attribute ``informed``.
        path: the ``.pt`` file.
        schema: wanted label schema.
        preset: wanted preset.
        device: where the network goes.
        autoencoder: whose latents the network works on; None for one that works on images.

    Raises:
        MedpairError: if the weights are missing or belong to another schema, preset, network,
            choice of information or autoencoder.
    """
    wanted = bool(network.informed)
    found = read_card(Path(path)).get("informed", wanted)
    if found != wanted:
        raise MedpairError(
            f"{path}: weights trained with informed {str(found).lower()}, wanted "
            f"{str(wanted).lower()}; set informed to fit or use other weights"
        )
    loaded = load_weights(network, path, schema=schema, preset=preset, device=device)
    if autoencoder is not None:
        check_scale(autoencoder, loaded)
    return loaded
