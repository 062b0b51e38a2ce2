"""The slice generator: a 2D latent diffusion that draws a slice for a position in the volume.

N slices, C latent channels, h, w latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.diffusion.rng import STAGES, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import (
    NoiseSchedule,
    Prediction,
    add_noise,
    draw_timesteps,
    select_timesteps,
    training_target,
)
from common.engines.batches import Batch, iteration_generator, moved, noise_like
from common.engines.inferers import AutocastInferer
from common.networks.embedding import ConditionEmbedding, sinusoid
from common.networks.monai_unet import MonaiUNet, check_network
from common.networks.unet import UNet
from gem3d.windows import LatentVolumes

WINDOW = 0xFFFFFE
"""Window number of its noise: no window of a volume starts there."""


class SliceGenerator(nn.Module):
    """Predict the noise (or v, x_0) of latent slices at a position p of the volume.

    Args:
        latent_channels: C.
        channels: channels per level, finest first.
        embedding: width of the time embedding.
        num_res_blocks: residual blocks per level.
        position_width: width of p's sinusoid, the context of the cross-attention (paper: 128).
        dropout: drop probability in the residual blocks.
        checkpointing: see `common.networks.unet.StageOptions`.
        network: "own", or "monai" for MONAI's DiffusionModelUNet, with the same cross-attention.
        options: further arguments of that, see `common.networks.monai_unet.MonaiUNet`.

    Raises:
        MedpairError: for another network, or options that make none.

    Source: GEM-3D §3.3, eq. 2.
    """

    called_per_step = True

    latent_std: Tensor

    def __init__(
        self,
        latent_channels: int,
        channels: Sequence[int] = (48, 96),
        embedding: int = 96,
        num_res_blocks: int = 1,
        position_width: int = 128,
        dropout: float = 0.0,
        checkpointing: bool = False,
        network: str = "own",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_network(network, options, dropout=dropout != 0, checkpointing=checkpointing)
        self.latent_channels, self.position_width = latent_channels, position_width
        self.register_buffer("latent_std", torch.ones(latent_channels))
        self.unet: nn.Module
        if network == "monai":
            self.unet = MonaiUNet(
                latent_channels,
                latent_channels,
                channels,
                1,
                position_width,
                {
                    "num_res_blocks": num_res_blocks,
                    "attention_levels": [True] * len(channels),
                    **(options or {}),
                },
            )
            return
        self.embed = ConditionEmbedding(embedding // 2, embedding)
        self.unet = UNet(
            latent_channels,
            latent_channels,
            channels,
            embedding,
            num_res_blocks,
            [True] * len(channels),
            dropout=dropout,
            context_channels=position_width,
            checkpointing=checkpointing,
        )

    def forward(self, x_NChw: Tensor, timesteps_N: Tensor, position_N: Tensor) -> Tensor:
        """Return the prediction (N, C, h, w).

        Args:
            x_NChw: noisy latents.
            timesteps_N: time steps in [0, T).
            position_N: p = slice / D in [0, 1].
        """
        x = x_NChw.contiguous(memory_format=torch.channels_last)
        if isinstance(self.unet, MonaiUNet):
            told: Tensor = self.unet(x, timesteps_N, position_N[:, None])
            return told
        context = sinusoid(1000.0 * position_N, self.position_width)[:, None]
        out: Tensor = self.unet(x, self.embed(timesteps_N), 1, context.to(x))
        return out


class LatentSliceBatches:
    """Draw batches of latent slices with their positions.

    Args:
        latents: where they come from.
        batch_size: slices N per batch.
    """

    def __init__(self, latents: LatentVolumes, batch_size: int) -> None:
        self.latents, self.batch_size = latents, batch_size

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return ``latent`` (N, C, h, w) and ``position`` (N,), slice / D in [0, 1)."""
        rows, places = [], []
        for _ in range(self.batch_size):
            latent, _ = self.latents.draw(generator)
            z = int(torch.randint(len(latent), (), generator=generator))
            rows.append(latent[z])
            places.append(z / len(latent))
        return {"latent": torch.stack(rows), "position": torch.tensor(places)}


class PrepareLatentSlices:
    """Make network input and target from a batch of latent slices, for MONAI's engines.

    Args:
        schedule: noise schedule.
        prediction: "eps" (paper), "v" or "x0".
        noise_emphasis: exponent k > 0; t is drawn with density proportional to t^(k-1) (paper: 1).

    Source: GEM-3D, eq. 2.
    """

    def __init__(
        self, schedule: NoiseSchedule, prediction: Prediction = "v", noise_emphasis: float = 1.0
    ) -> None:
        self.schedule, self.prediction = schedule, prediction
        self.noise_emphasis = noise_emphasis

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: torch.device | str | None,
        non_blocking: bool,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], dict[str, Any]]:
        """Return x_t, target, further arguments and keyword arguments."""
        generator = iteration_generator(int(batchdata["seed"]) + 1, int(batchdata["iteration"]))
        batch = moved(batchdata, device, non_blocking)  # noise is made there
        x_0 = batch["latent"]
        t = draw_timesteps(self.schedule.T, len(x_0), self.noise_emphasis, generator).to(x_0.device)
        eps = noise_like(x_0, generator)
        x_t = add_noise(self.schedule, x_0, eps, t)
        target = training_target(self.schedule, x_0, eps, t, self.prediction)
        return x_t, target, (t.float(), batch["position"]), {}


@torch.no_grad()
def draw_slices(
    network: SliceGenerator,
    position_N: Tensor,
    size: Sequence[int],
    *,
    schedule: NoiseSchedule,
    prediction: Prediction,
    volumes: Sequence[int],
    seed: int,
    sampler: str = "dpm_solver_pp_2m",
    num_steps: int = 20,
    attempt: int = 0,
    precision: str = "auto",
) -> Tensor:
    """Draw a latent slice for each position.

    Args:
        network: with its weights, in eval mode.
        position_N: positions p in [0, 1].
        size: latent size (h, w).
        schedule: noise schedule of the training.
        prediction: what the network puts out.
        volumes: number of each volume; keys the noise with the seed.
        seed: the run's seed.
        sampler: name in `common.diffusion.samplers.SAMPLERS`.
        num_steps: denoising steps.
        attempt: number of the try, where an earlier one was refused.
        precision: see `common.engines.inferers.resolve_precision`.

    Returns:
        (N, C, h, w).

    Source: GEM-3D, algorithm 1, line 5.
    """
    device = network.latent_std.device
    stream = NoiseStream(
        seed,
        volumes,
        STAGES["gem3d"],
        [WINDOW - attempt] * len(volumes),
        (network.latent_channels, *size),
        device=device,
    )
    forward, position = AutocastInferer(precision), position_N.to(device)

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return forward(x, network, t.float(), position)

    drawn: Tensor = sample(
        sampler,
        denoiser,
        stream(0, "init"),
        schedule,
        select_timesteps(schedule.T, num_steps),
        noise=stream,
        prediction=prediction,
    )
    return drawn
