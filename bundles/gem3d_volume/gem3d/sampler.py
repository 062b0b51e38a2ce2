"""Latents of whole volumes: a start window, then forward and backward windows side by side.

V volumes, R rows of a batch, S slices per window, D slices per volume, C latent channels,
E = C + 1 channels of an informed slice, M mask channels, H, W image and h, w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.diffusion.guidance import Condition, Denoiser, classifier_free
from common.diffusion.lockstep import DIRECTIONS, Round, lockstep
from common.diffusion.overlap import KnownNoise, KnownSlices
from common.diffusion.rng import STAGES, NoiseSource, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import Prediction, Schedule, select_timesteps
from common.diffusion.windows import Window, WindowPlan
from common.engines.footprint import peak_bytes
from common.engines.inferers import AutocastInferer
from common.errors import MedpairError
from gem3d.conditions import VolumeMasks
from gem3d.plan import Tail, plan_volume
from gem3d.sampler_inputs import Conditions, LatentContext, SampleRequest, check_count

SAMPLERS = ("ddim", "dpm_solver_pp_2m", "ddpm")


@dataclass(frozen=True)
class LatentSampler:
    """Sample latent volumes of any depth with a trained volume denoiser.

    Args:
        schedule: noise schedule of the training.
        prediction: what the network puts out.
        window: slices S per window.
        overlap: least number of known slices of a later window (h), 1..window-1.
        sampler: "ddim", "dpm_solver_pp_2m" or "ddpm".
        num_steps: denoising steps per window.
        eta: share of DDPM's noise, "ddim" only; 1 with 200 steps is faithful.
        guidance_mask: 1 = as conditioned; larger extrapolates from the pass without conditions.
        guidance_informed: likewise, from the pass that sees the mask alone.
        resample: RePaint passes per stretch; 1 = none (faithful).
        jump: steps per stretch.
        known_noise: "official" noises known slices as the released code does.
        tail: "official" plans windows as the released code does, see `gem3d.plan`.
        overlapped_inpainting: False (ablation C.1) puts windows side by side and imposes no
            generated slice; the boundary slice still informs the next window.
        informed: False gives no window an informed slice (Make-A-Volume).
        precision: see `common.engines.inferers.resolve_precision`.

    Raises:
        MedpairError: if two choices exclude each other.

    Source: GEM-3D, algorithm 1.
    """

    schedule: Schedule
    prediction: Prediction = "v"
    window: int = 16
    overlap: int = 1
    sampler: str = "ddim"
    num_steps: int = 30
    eta: float = 0.0
    guidance_mask: float = 1.0
    guidance_informed: float = 1.0
    resample: int = 1
    jump: int = 1
    known_noise: KnownNoise = "correct"
    tail: Tail = "overlap"
    overlapped_inpainting: bool = True
    informed: bool = True
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise MedpairError(
                f"sampler: {self.sampler!r}; want one of {', '.join(SAMPLERS)}; change the key"
            )
        if self.eta and self.sampler != "ddim":
            raise MedpairError(
                f"eta: {self.eta} with sampler {self.sampler!r}; want 0; only 'ddim' has it"
            )
        if self.guidance_informed != 1 and not self.informed:
            raise MedpairError(
                f"guidance_informed: {self.guidance_informed} without informed slices; want 1; "
                "change it or set informed"
            )
        self.plan(self.window, 0)  # refuses window, overlap and tail before anything is written

    @torch.no_grad()
    def __call__(
        self,
        network: nn.Module,
        mask_VDMhw: Tensor | VolumeMasks,
        informed_VEhw: Tensor,
        informed_index: Sequence[int],
        *,
        volumes: Sequence[int],
        seed: int,
        depth: int,
        starts: Sequence[int] | None = None,
        context: LatentContext | None = None,
        impose: Sequence[bool] | None = None,
    ) -> Tensor:
        """Generate latents, many volumes in lock-step.

        Args:
            network: a `gem3d.network.VolumeDenoiser`.
            mask_VDMhw: encoded masks of all slices, or what encodes them where they are read, on
                the network's device.
            informed_VEhw: informed slices, see `gem3d.conditions.informed_maps`.
            informed_index: slice that each of them stands for, inside its start window.
            volumes: number of each volume, keys its noise.
            seed: the run's seed.
            depth: slices D per volume; below the window it is padded, then cropped.
            starts: first slice of each start window, 0..D-1; default: the informed slice.
            context: latents VDChw to keep, and where, VD1hw bool; default: none.
            impose: whether each informed slice becomes its volume's slice; default: none.

        Returns:
            (V, D, C, h, w) latents, float32.

        Raises:
            MedpairError: if shapes, places or choices do not fit.
        """
        check_count("volumes", len(volumes), len(mask_VDMhw))
        request = SampleRequest(
            mask_VDMhw,
            informed_VEhw,
            informed_index,
            informed_index if starts is None else starts,
            [False] * len(mask_VDMhw) if impose is None else impose,
            context,
            self.window,
            self.informed,
            self.overlapped_inpainting,
        )
        self._check(network, request, depth)
        plans = [self.plan(depth, start) for start in request.starts]
        latent_VDChw = torch.zeros(
            len(plans), plans[0].padded_depth, *request.latent_shape, device=mask_VDMhw.device
        )
        for number, batch in enumerate(lockstep(plans)):
            conditions = request.conditions(batch, latent_VDChw, first=number == 0)
            noise = _noise(batch, volumes, seed, conditions.known_latent_SChw)
            sampled_RSChw = self._sample(network, conditions, noise)
            for row, slot, window in ((p.row, p.slot, p.window) for p in batch.windows):
                new_SChw = sampled_RSChw[row, window.local(window.new)]
                latent_VDChw[slot, window.new.start : window.new.stop] = new_SChw
        return latent_VDChw[:, :depth]

    def working_bytes(self, network: nn.Module, volumes: int, like: VolumeMasks) -> int:
        """Return the bytes that a step holds at its peak, beside the weights.

        Args:
            network: a `gem3d.network.VolumeDenoiser`.
            volumes: V, whose forward and backward windows run as one batch.
            like: masks of any number of volumes, which tell the sizes.
        """
        channels = int(network.latent_channels)  # type: ignore[arg-type]
        rows, (_, _, masks, h, w), device = DIRECTIONS * volumes, like.shape, like.device

        def step() -> None:
            def zeros(*shape: int) -> Tensor:
                return torch.zeros(rows, *shape, device=device)

            S, latent = self.window, zeros(self.window, channels, h, w)
            known = zeros(S, 1, h, w) > 0
            conditions = Conditions(
                zeros(S, masks, h, w), zeros(channels + 1, h, w), zeros(S), zeros(S), latent, known
            )
            t = torch.zeros(rows, dtype=torch.long, device=device)
            self._denoiser(network, conditions)(latent.clone(), t)

        return peak_bytes(step)

    def plan(self, depth: int, start: int) -> WindowPlan:
        """Return the windows of a volume of that depth and start; see `gem3d.plan`."""
        return plan_volume(
            depth,
            self.window,
            self.overlap,
            start,
            tail=self.tail,
            overlapped=self.overlapped_inpainting,
        )

    def _check(self, network: nn.Module, request: SampleRequest, depth: int) -> None:
        if request.depth != depth:
            raise MedpairError(
                f"mask: {request.depth} slices; want {depth}, the depth; give a mask per slice"
            )
        channels = request.latent_shape[0]
        if getattr(network, "latent_channels", channels) != channels:
            raise MedpairError(
                f"informed slice: {channels} latent channels; want {network.latent_channels}, the "
                "network's; encode it with the autoencoder of the same training"
            )
        ways = getattr(network, "ways", {})
        if self.guidance_informed != 1 and ways.get("informed") == "none":
            raise MedpairError(
                f"guidance_informed: {self.guidance_informed} for a network without informed "
                "slices; want 1; change the key"
            )

    def _sample(self, network: nn.Module, conditions: Conditions, noise: NoiseSource) -> Tensor:
        """Sample the windows of one round, (R, S, C, h, w)."""
        known = KnownSlices(
            conditions.known_latent_SChw,
            conditions.known_S1hw,
            self.resample,
            self.jump,
            self.known_noise,
        )
        return sample(
            self.sampler,
            self._denoiser(network, conditions),
            noise(0, "init"),
            self.schedule,
            select_timesteps(self.schedule.T, self.num_steps),
            noise=noise,
            prediction=self.prediction,
            overlap=known,
            **({"eta": self.eta} if self.sampler == "ddim" else {}),
        )

    def _denoiser(self, network: nn.Module, conditions: Conditions) -> Denoiser:
        """Bind the conditions; guidance takes them away, the informed slice first."""
        forward = AutocastInferer(self.precision)
        wants_known = bool(getattr(network, "known_channel", False))

        def denoise(
            x: Tensor,
            t: Tensor,
            mask: Tensor,
            informed: Tensor,
            offset: Tensor,
            position: Tensor,
            known_latent: Tensor,
            known: Tensor,
        ) -> Tensor:
            seen = (mask, informed, offset, position)
            if not wants_known:
                return forward(x, network, t, *seen)
            known_RS = known.flatten(2).all(2)
            x = torch.where(known_RS[:, :, None, None, None], known_latent, x)
            return forward(x, network, t, *seen, known_RS)

        names = ("mask", "informed", "offset", "position", "known_latent", "known")
        given: dict[str, Condition] = dict(zip(names, conditions, strict=True))
        scales = {"mask": self.guidance_mask, "informed": self.guidance_informed}
        if not self.informed:
            del scales["informed"]
        nulls: dict[str, Condition] = {name: torch.zeros(()) for name in scales}
        return classifier_free(denoise, given, nulls, scales)


def decode_in_chunks(
    decode: Callable[[Tensor], Tensor], latent_VDChw: Tensor, chunk: int
) -> Tensor:
    """Decode a few slices at a time, which bounds the memory.

    Args:
        decode: takes z_NChw to image_N1HW.
        latent_VDChw: latents.
        chunk: slices at a time, >= 1.

    Returns:
        (V, D, H, W) images.

    Raises:
        MedpairError: for a chunk below 1.
    """
    if chunk < 1:
        raise MedpairError(f"chunk: {chunk}; want >= 1 slices; change the key")
    parts = [decode(z_NChw) for z_NChw in latent_VDChw.flatten(0, 1).split(chunk)]
    image_NHW = torch.cat(parts).squeeze(1)
    return image_NHW.reshape(*latent_VDChw.shape[:2], *image_NHW.shape[1:])


def _noise(batch: Round, volumes: Sequence[int], seed: int, like_RSChw: Tensor) -> NoiseStream:
    """The noise of a round; rows without a window take that of volume 0."""
    keys = {p.row: (volumes[p.slot], _number(p.window)) for p in batch.windows}
    rows = [keys.get(row, (0, 0)) for row in range(batch.rows)]
    return NoiseStream(
        seed,
        [volume for volume, _ in rows],
        STAGES["gem3d"],
        [window for _, window in rows],
        like_RSChw.shape[1:],
        like_RSChw.device,
    )


def _number(window: Window) -> int:
    """A window's own number: the released plan may start one of each direction at one slice."""
    return 2 * window.start + int(window.backward)
