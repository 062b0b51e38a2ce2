"""Images of whole masks by the conditional 3D latent diffusion.

V volumes, C latent channels, D, H, W volume size, h, w latent size.
"""

from __future__ import annotations

import torch
from monai.inferers import Inferer
from torch import Tensor

from common.data.checks import whole_numbers
from common.diffusion.rng import STAGES, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import NoiseSchedule, Prediction, select_timesteps
from common.engines.inferers import precision_context, resolve_precision
from gem3d.autoencoder import SliceAutoencoder
from gem3d.baseline_data import slice_distance, spread_slice
from gem3d.conditions import MaskEncoding, informed_maps
from gem3d.ldm3d import LatentVolumeDenoiser
from gem3d.sampler import decode_in_chunks
from gem3d.volumes import BACKGROUND, pad_in_plane

CHUNK = 64


class LatentVolumeInferer(Inferer):
    """Make images of whole masks: sample a latent volume, decode its slices.

    Args:
        autoencoder: with its weights.
        encoding: masks on the latent grid.
        schedule: noise schedule of the training.
        prediction: what the network puts out.
        sampler: "dpm_solver_pp_2m", "ddim" or "ddpm".
        num_steps: denoising steps.
        seed: with the number of a volume it fixes the noise.
        precision: "fp32" (default), "auto", "bf16" or "fp16".
    """

    def __init__(
        self,
        autoencoder: SliceAutoencoder,
        encoding: MaskEncoding,
        schedule: NoiseSchedule,
        prediction: Prediction = "v",
        sampler: str = "dpm_solver_pp_2m",
        num_steps: int = 20,
        seed: int = 0,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        resolve_precision("cpu", precision)
        self.autoencoder, self.encoding, self.schedule = autoencoder, encoding, schedule
        self.prediction, self.sampler, self.precision = prediction, sampler, precision
        self.timesteps, self.seed = select_timesteps(schedule.T, num_steps), seed

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor,
        network: LatentVolumeDenoiser,
        slice_VHW: Tensor,
        index: Tensor,
        number: Tensor,
    ) -> Tensor:
        """Return images (V, 1, D, H, W), float32 in [-1, 1].

        Args:
            inputs: masks (V, 1, D, H, W), whole numbers.
            network: the denoiser.
            slice_VHW: a slice of each volume, in [-1, 1]; read where ``network.informed``.
            index: its number, (V,).
            number: number of each volume, (V,), which keys its noise.

        Raises:
            MedpairError: for labels outside the schema, or settings that no sampler takes.
        """
        label = whole_numbers(inputs[:, 0])
        height, width = label.shape[-2:]
        factor = self.autoencoder.factor
        mask = self.encoding(pad_in_plane(label, factor, 0))
        slices = pad_in_plane(slice_VHW[:, None].float(), factor, BACKGROUND)
        condition = network.condition(mask, self._spread(slices, index, label.shape[1]))
        latent = self._sampled(network, condition, number)
        return self._decoded(latent)[..., :height, :width]

    def _spread(self, slices_V1HW: Tensor, index: Tensor, depth: int) -> Tensor:
        seen = informed_maps(self.autoencoder.encode(slices_V1HW))
        spread = [
            spread_slice(maps, slice_distance(int(z), depth))
            for maps, z in zip(seen, index, strict=True)
        ]
        return torch.stack(spread)

    def _sampled(self, network: LatentVolumeDenoiser, condition: Tensor, number: Tensor) -> Tensor:
        volumes = [int(n) for n in number]
        shape = (network.latent_channels, *condition.shape[-3:])
        windows = [0] * len(volumes)
        noise = NoiseStream(self.seed, volumes, STAGES["gem3d"], windows, shape, condition.device)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            with precision_context(x.device, self.precision):
                out: Tensor = network(x, t, condition)
            return out.float()

        return sample(
            self.sampler,
            denoise,
            noise(0, "init"),
            self.schedule,
            self.timesteps,
            noise=noise,
            prediction=self.prediction,
        )

    def _decoded(self, latent_VCDhw: Tensor) -> Tensor:
        decode, latent_VDChw = self.autoencoder.decode, latent_VCDhw.transpose(1, 2)
        with precision_context(latent_VCDhw.device, self.precision):
            return decode_in_chunks(decode, latent_VDChw, CHUNK)[:, None]
