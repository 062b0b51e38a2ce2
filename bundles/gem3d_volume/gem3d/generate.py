"""Whole images for masks: encode the conditions, sample latents, decode in chunks.

V volumes, D, H, W volume size, C latent channels, h, w latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.engines.footprint import peak_bytes
from common.engines.inferers import precision_context
from common.errors import MedpairError
from gem3d.conditions import MaskEncoding, informed_maps
from gem3d.model import Gem3D
from gem3d.sampler import LatentSampler, decode_in_chunks
from gem3d.volumes import BACKGROUND, pad_in_plane
from gem3d.windows import encode_volume


@dataclass(frozen=True)
class InformedSlice:
    """The slice that a volume's image starts from.

    Args:
        image_HW: the slice in [-1, 1].
        index: number of the slice of the target volume that it stands for, 0..D-1.
        source: id of the scan it was taken from, or "generated".
        impose: it is that very slice of the target, and is kept as it is.
    """

    image_HW: Tensor
    index: int
    source: str
    impose: bool = False


@dataclass(frozen=True)
class Context:
    """What is known of the images already, for in-plane inpainting.

    Args:
        image_VDHW: images in [-1, 1], read where known.
        known_VDHW: bool.
    """

    image_VDHW: Tensor
    known_VDHW: Tensor


@dataclass(frozen=True)
class VolumeGenerator:
    """Make images for masks with trained networks.

    Args:
        network: all parts, in eval mode.
        encoding: masks on the latent grid.
        sampler: how latents are sampled.
        chunk: slices that are decoded at once.
        precision: of the autoencoder: "fp32", "auto", "bf16" or "fp16".

    Source: GEM-3D, algorithm 1.
    """

    network: Gem3D
    encoding: MaskEncoding
    sampler: LatentSampler
    chunk: int = 64
    precision: str = "fp32"

    @torch.no_grad()
    def __call__(
        self,
        label_VDHW: Tensor,
        informed: Sequence[InformedSlice],
        *,
        volumes: Sequence[int],
        seed: int,
        context: Context | None = None,
    ) -> Tensor:
        """Return images (V, D, H, W), float32 in [-1, 1], on the CPU.

        Args:
            label_VDHW: masks, uint8.
            informed: a slice for every mask; of the masks' in-plane size.
            volumes: number of each volume; keys its noise with the seed.
            seed: the run's seed.
            context: known parts of the images.

        Raises:
            MedpairError: for labels outside the schema, or informed slices of another size.
        """
        size = label_VDHW.shape[-2:]
        self._check(label_VDHW, informed)
        device = self.network.autoencoder.latent_std.device
        mask = self.encoding.of_volumes(self._padded(label_VDHW, 0).to(device))
        slices = torch.stack([slice_.image_HW for slice_ in informed])[:, None]
        with precision_context(device, self.precision):
            latent = self.network.autoencoder.encode(self._padded(slices, BACKGROUND).to(device))
        latents = self.sampler(
            self.network.volume,
            mask,
            informed_maps(latent),
            [slice_.index for slice_ in informed],
            volumes=volumes,
            seed=seed,
            depth=label_VDHW.shape[1],
            context=self._encoded(context),
            impose=[slice_.impose for slice_ in informed],
        )
        return self._decode(latents)[..., : size[0], : size[1]].cpu()

    def joints(self, depth: int, start: int) -> tuple[int, ...]:
        """Return the slices where later windows begin in a volume.

        Args:
            depth: slices D.
            start: index of the informed slice.
        """
        return self.sampler.plan(depth, start).joints

    def working_bytes(self, volumes: int, size: tuple[int, int, int]) -> int:
        """Return the bytes that a batch of volumes holds at its peak, beside the weights.

        Args:
            volumes: V.
            size: (D, H, W) of the volumes.
        """
        depth, height, width = size
        autoencoder = self.network.autoencoder
        device, f = autoencoder.latent_std.device, autoencoder.factor
        chunk = min(self.chunk, volumes * depth)

        def decode() -> None:
            latent = torch.zeros(
                chunk, autoencoder.latent_channels, -(-height // f), -(-width // f), device=device
            )
            with precision_context(device, self.precision):
                autoencoder.decode(latent)

        label = self._padded(torch.zeros(1, 1, height, width, dtype=torch.uint8, device=device), 0)
        step = self.sampler.working_bytes(
            self.network.volume, volumes, self.encoding.of_volumes(label)
        )
        images = 2 * volumes * depth * height * width * torch.float32.itemsize
        return max(step, peak_bytes(decode)) + images

    def _decode(self, latents_VDChw: Tensor) -> Tensor:
        with precision_context(latents_VDChw.device, self.precision):
            return decode_in_chunks(self.network.autoencoder.decode, latents_VDChw, self.chunk)

    def _encoded(self, context: Context | None) -> tuple[Tensor, Tensor] | None:
        """Return latents (V, D, C, h, w) and where they are known (V, D, 1, h, w)."""
        if context is None:
            return None
        images = self._padded(context.image_VDHW, BACKGROUND)
        with precision_context(self.network.autoencoder.latent_std.device, self.precision):
            latent = torch.stack([encode_volume(self.network.autoencoder, i) for i in images])
        # a latent pixel is known where all its voxels are
        unknown = self._padded((~context.known_VDHW).float(), 0.0)
        known = F.max_pool2d(unknown, self.network.autoencoder.factor) == 0
        return latent, known[:, :, None].to(latent.device)

    def _padded(self, volume: Tensor, value: float) -> Tensor:
        return pad_in_plane(volume, self.network.autoencoder.factor, value)

    def _check(self, label_VDHW: Tensor, informed: Sequence[InformedSlice]) -> None:
        if len(informed) != len(label_VDHW):
            raise MedpairError(
                f"informed: {len(informed)} slices; want {len(label_VDHW)}, one per mask"
            )
        depth, height, width = label_VDHW.shape[1:]
        for slice_ in informed:
            if tuple(slice_.image_HW.shape) != (height, width):
                raise MedpairError(
                    f"informed slice of {slice_.source}: size {tuple(slice_.image_HW.shape)}; want "
                    f"{(height, width)}, the mask's; prepare both on one grid"
                )
            if not 0 <= slice_.index < depth:
                raise MedpairError(
                    f"informed slice of {slice_.source}: slice {slice_.index}; want "
                    f"0..{depth - 1}, a slice of the mask"
                )
