"""Training windows: the latents of neighbouring slices, their labels and an informed slice.

B windows, S slices per window, D slices per volume, C latent channels, H, W image size, h, w latent
size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.engines.batches import Batch, noise_like
from common.errors import MedpairError
from gem3d.autoencoder import SliceAutoencoder, in_parts
from gem3d.conditions import informed_maps
from gem3d.volumes import Volume, Volumes


@dataclass
class LatentVolumes:
    """Scans (or changed copies) with the latents of all their slices, made on first use and kept.

    Args:
        volumes: the scans.
        autoencoder: with its weights, in eval mode.
    """

    volumes: Volumes
    autoencoder: SliceAutoencoder
    _made: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return latents (D, C, h, w) and labels (D, H, W) of one scan or copy."""
        return self.of(self.volumes.draw(generator))

    def of(self, volume: Volume) -> tuple[Tensor, Tensor]:
        """Return latents (D, C, h, w) and labels (D, H, W) of a volume."""
        if volume.key not in self._made:
            latents = encode_volume(self.autoencoder, volume.image_DHW)
            self._made[volume.key] = latents.to(volume.image_DHW.device)  # where the scans are
        return self._made[volume.key], volume.label_DHW


@torch.no_grad()
def encode_volume(autoencoder: SliceAutoencoder, image_DHW: Tensor) -> Tensor:
    """Return the latents (D, C, h, w) of a volume in [-1, 1], on the autoencoder's device."""
    device = autoencoder.latent_std.device
    parts = in_parts(image_DHW[:, None])
    return torch.cat([autoencoder.encode(part.to(device)) for part in parts])


@dataclass(frozen=True)
class InformedDraw:
    """Which slice of a window is its informed slice, and how it is disturbed.

    Args:
        edge: share of the windows whose informed slice is the first or the last one, as in
            sampling; else any slice of the window (paper: 0).
        noise: largest standard deviation of Gaussian noise on the informed latents, against the
            drift from generated informed slices; drawn uniformly per window (paper: 0).
        noisy: share of the windows with such noise.

    Source: GEM-3D §3.2.
    """

    edge: float = 0.5
    noise: float = 0.3
    noisy: float = 0.3

    def index(self, window: int, generator: torch.Generator) -> int:
        """Return a slice number 0..window-1."""
        u = torch.rand(2, generator=generator).tolist()
        inside = int(torch.randint(window, (), generator=generator))
        return inside if u[0] >= self.edge else (0 if u[1] < 0.5 else window - 1)

    def disturbed(self, latent_Chw: Tensor, generator: torch.Generator) -> Tensor:
        """Return the informed slice as the network gets to see it."""
        u = torch.rand(2, generator=generator).tolist()
        noise = noise_like(latent_Chw, generator)
        return latent_Chw + (self.noise * u[1] if u[0] < self.noisy else 0.0) * noise


class WindowBatches:
    """Draw batches of latent windows.

    Args:
        latents: where they come from.
        window: slices S per window.
        batch_size: windows B per batch.
        informed: the choice of the informed slices.
        inpaint_share: share of the windows with some slices at one end given clean; wants
            ``known_channel`` in the network (paper: 0).

    Source: GEM-3D §3.2; the last possible start is drawn too, which the released code leaves out.
    """

    def __init__(
        self,
        latents: LatentVolumes,
        window: int,
        batch_size: int,
        informed: InformedDraw | None = None,
        inpaint_share: float = 0.0,
    ) -> None:
        if window < 2 or batch_size < 1:
            raise MedpairError(
                f"window {window}, batch_size {batch_size}; want window >= 2 and batch_size >= 1"
            )
        self.latents, self.window, self.batch_size = latents, window, batch_size
        self.informed, self.inpaint_share = informed or InformedDraw(), inpaint_share

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return one batch.

        Returns:
            ``latent`` (B, S, C, h, w), ``label`` (B, S, H, W) uint8, ``informed``
            (B, C + 1, h, w), ``offset`` and ``position`` (B, S), ``known`` (B, S) bool.
        """
        rows = [self._one(generator) for _ in range(self.batch_size)]
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        return batch | {"informed": informed_maps(batch["informed"])}

    def _one(self, generator: torch.Generator) -> dict[str, Tensor]:
        latent_DChw, label_DHW = self.latents.draw(generator)
        depth = len(latent_DChw)
        first = int(torch.randint(max(1, depth - self.window + 1), (), generator=generator))
        # a volume shorter than the window repeats its last slice
        place = (first + torch.arange(self.window)).clamp(max=depth - 1)
        chosen = self.informed.index(self.window, generator)
        clean = latent_DChw[place[chosen]]
        return {
            "latent": latent_DChw[place],
            "label": label_DHW[place],
            "informed": self.informed.disturbed(clean, generator),
            "offset": (place - place[chosen]).float(),
            "position": place / depth,
            "known": self._known(generator),
        }

    def _known(self, generator: torch.Generator) -> Tensor:
        known = torch.zeros(self.window, dtype=torch.bool)
        u = torch.rand(2, generator=generator).tolist()
        count = int(torch.randint(1, self.window, (), generator=generator))
        if u[0] < self.inpaint_share:
            known[slice(count) if u[1] < 0.5 else slice(self.window - count, None)] = True
        return known
