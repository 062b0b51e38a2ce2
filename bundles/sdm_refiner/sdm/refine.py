"""Refinement of volumes: noise them a little, denoise their slices in three views.

V volumes, C image channels, D, H, W volume size, N = V * n slices of a view (n along its axis), L
mask slices in the window, a, b slice size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from common.data.views import from_slices, to_slices
from common.diffusion.guidance import Condition, Denoiser, classifier_free
from common.diffusion.rng import STAGES, NoiseSource, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import select_timesteps
from common.engines.inferers import precision_context
from common.errors import MedpairError
from sdm.diffusion import SliceDiffusion, check_sampler
from sdm.modulation import Budget, ModulationCache, SliceCost
from sdm.network import Modulations
from sdm.slices import ViewSlices
from sdm.views import VIEWS, ViewDenoisers

MODES = ("mean", "mean_shared_noise", "joint", "cycle")
# a noise window is a slice of the view normal to axis 0, 1 or 2, or of a volume shared by all views
MOST_SLICES, SHARED = 2**20, 3


@dataclass(frozen=True)
class Refinement:
    """How volumes are refined.

    Args:
        diffusion: schedule and prediction type that the networks were trained with.
        t_start: noise steps that the volume gets, 0..T-1 (paper: 10); 0 leaves it as it is, None
            starts from pure noise, which makes a generator of it.
        num_steps: denoising steps, 1..t_start.
        mode: "mean": each view is refined on its own, then averaged (paper); "mean_shared_noise":
            the same from one noise volume; "joint": one trajectory whose steps average the
            predictions of all views; "cycle": one trajectory, the views take turns.
        views: views that take part.
        view_weights: one number >= 0 per view; "spacing" for the distances of the slices, so that
            thick slices, which are sharp in their plane, weigh more; None weighs all alike.
        sampler: "ddpm", "ddim" or "dpm_solver_pp_2m".
        guidance_scale: 1 is plain conditional sampling.
        memory_budget_gb: bound of the memory for activations, modulations and shared noise.
        slices_per_batch: most slices per network call.
        keep_modulations: over the steps; off only to measure what that saves.
        precision: "fp32", "auto", "bf16" or "fp16".

    Raises:
        MedpairError: for an unknown mode, view or sampler, or a number outside its range.

    Source: MedGen3D §3.2 and fig. 3 (mean); per-step averaging: TPDM (2303.08440), §3.
    """

    diffusion: SliceDiffusion
    t_start: int | None = 10
    num_steps: int = 10
    mode: str = "mean"
    views: Sequence[str] = VIEWS
    view_weights: Sequence[float] | str | None = None
    sampler: str = "ddim"
    guidance_scale: float = 1.0
    memory_budget_gb: float = 2.0
    slices_per_batch: int = 32
    keep_modulations: bool = True
    precision: str = "fp32"

    def __post_init__(self) -> None:
        T = self.diffusion.schedule.T
        if self.t_start is not None and not 0 <= self.t_start < T:
            raise MedpairError(f"t_start: {self.t_start}; want 1..{T - 1}; the paper's is 10")
        if self.t_start != 0 and not 1 <= self.num_steps <= (self.t_start or T):
            raise MedpairError(
                f"num_steps: {self.num_steps}; want 1..{self.t_start or T}, at most t_start"
            )
        if self.mode not in MODES:
            raise MedpairError(f"mode: {self.mode!r}; want one of {', '.join(MODES)}")
        unknown = [view for view in self.views if view not in VIEWS]
        if unknown or not self.views or len(set(self.views)) < len(self.views):
            raise MedpairError(f"views: {list(self.views)}; want different ones of {list(VIEWS)}")
        check_sampler(self.sampler)
        self._check_weights()
        if self.mode == "cycle" and self.t_start != 0 and self.num_steps < len(self.views):
            raise MedpairError(
                f"num_steps: {self.num_steps}; mode cycle wants {len(self.views)} or more, one per "
                "view; raise it"
            )

    def _check_weights(self) -> None:
        weights = self.view_weights
        if weights is None or weights == "spacing":
            return
        if isinstance(weights, str) or len(weights) != len(self.views) or min(weights) < 0:
            raise MedpairError(
                f"view_weights: {weights!r}; want null, 'spacing' or {len(self.views)} numbers >= 0"
            )
        if not sum(weights):
            raise MedpairError(f"view_weights: {weights!r}; want at least one above 0")

    def shares(self, spacing: Mapping[str, float]) -> tuple[float, ...]:
        """Return the share of each view in the result; they sum to 1.

        Args:
            spacing: distance of the slices of each view, mm.
        """
        weights: Sequence[float] = [1.0] * len(self.views)
        if self.view_weights == "spacing":
            weights = [spacing[view] for view in self.views]
        elif self.view_weights is not None and not isinstance(self.view_weights, str):
            weights = self.view_weights
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps visited, from the noisiest down."""
        if self.t_start == 0:
            return ()
        return select_timesteps(self.t_start or self.diffusion.schedule.T, self.num_steps)


@torch.no_grad()
def refine_volumes(
    network: ViewDenoisers,
    label_VDHW: Tensor,
    image_VCDHW: Tensor | None,
    how: Refinement,
    *,
    spacing: Mapping[str, float],
    seed: int,
    volumes: Sequence[int],
) -> Tensor:
    """Refine images under their masks, or make them from noise.

    Args:
        network: denoisers of the views, in eval mode.
        label_VDHW: masks, 0..K-1; sizes are multiples of the network's stride.
        image_VCDHW: images in [-1, 1]; None with t_start None.
        how: settings.
        spacing: view normal to D, H and W, in this order, and the distance of its slices in mm.
        seed: the run's seed.
        volumes: number of each volume; with the seed it keys the noise.

    Returns:
        (V, C, D, H, W) float32, not clipped.

    Source: MedGen3D §3.2: x_t = q(x_t | x_0) with t = t_start, then denoised to 0.
    """
    if how.t_start == 0 and image_VCDHW is not None:
        return image_VCDHW.clone()
    run = _Run(network, label_VDHW, image_VCDHW, how, spacing, seed, volumes)
    if how.mode in ("joint", "cycle"):
        return run.one_trajectory()
    total = torch.zeros(len(label_VDHW), *run.size, device=label_VDHW.device)
    for share, view in zip(run.shares, how.views, strict=True):
        run.add_view(view, share, total)
    return total


class _Run:
    """One call of `refine_volumes`."""

    def __init__(
        self,
        network: ViewDenoisers,
        label_VDHW: Tensor,
        image_VCDHW: Tensor | None,
        how: Refinement,
        spacing: Mapping[str, float],
        seed: int,
        volumes: Sequence[int],
    ) -> None:
        self.network, self.label, self.image, self.how = network, label_VDHW, image_VCDHW, how
        self.seed, self.numbers = seed, list(volumes)
        self.uses_variance = network.learned_sigma and how.sampler == "ddpm"
        self.shares = how.shares(spacing)
        self.size: tuple[int, ...] = (network.image_channels, *label_VDHW.shape[1:])
        self.slices = {
            view: ViewSlices(axis, len(label_VDHW), label_VDHW.shape[1 + axis])
            for axis, view in enumerate(spacing)
        }
        self.costs: dict[str, SliceCost] = {}
        self.shared_noise: dict[tuple[int, str], Tensor] = {}

    def add_view(self, view: str, share: float, total_VCDHW: Tensor) -> None:
        """Refine all slices of a view on their own, chunk after chunk; add their share."""
        slices, budget = self.slices[view], self._budget(view)
        for chunk in slices.chunks(budget.slices):
            noise = self._chunk_noise(view, chunk)
            image = None if self.image is None else slices.take(self.image, chunk)
            own = ModulationCache(len(chunk) * self._cost(view).kept)  # planned with the call
            denoiser = self._chunk_denoiser(view, chunk, own)
            slices.add(total_VCDHW, chunk, share * self._sample(denoiser, image, noise))

    def one_trajectory(self) -> Tensor:
        """Denoise whole volumes; the views' predictions are averaged, or take turns."""
        budgets = [self._budget(view) for view in self.how.views]
        kept = ModulationCache(min(budget.cache_bytes for budget in budgets))
        views = [
            self._volume_denoiser(view, budget.slices, kept)
            for view, budget in zip(self.how.views, budgets, strict=True)
        ]
        if self.how.mode == "cycle":
            turns = cycle(views)
            return self._sample(lambda x, t: next(turns)(x, t), self.image, self._volume_noise)

        def average(x: Tensor, t: Tensor) -> Tensor:
            predictions = zip(self.shares, views, strict=True)
            return torch.stack([share * denoise(x, t) for share, denoise in predictions]).sum(0)

        return self._sample(average, self.image, self._volume_noise)

    def _sample(self, denoiser: Denoiser, x_0: Tensor | None, noise: NoiseSource) -> Tensor:
        how, schedule = self.how, self.how.diffusion.schedule
        start = noise(0, "init")
        if x_0 is not None:
            alpha, sigma = schedule.alpha_sigma(how.timesteps[0])
            start = alpha * x_0 + sigma * start
        return sample(
            how.sampler,
            denoiser,
            start,
            schedule,
            how.timesteps,
            noise=noise,
            prediction=how.diffusion.prediction,
            **({"learned_sigma": True} if self.uses_variance else {}),
        )

    def _volume_denoiser(self, view: str, most: int, kept: ModulationCache) -> Denoiser:
        """Return what denoises volumes through their slices of a view."""
        slices = self.slices[view]
        chunks = slices.chunks(most)
        parts = [self._chunk_denoiser(view, chunk, kept) for chunk in chunks]

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            pairs = zip(chunks, parts, strict=True)
            return slices.put([part(slices.take(x, c), t[c // slices.n]) for c, part in pairs])

        return denoise

    def _chunk_denoiser(self, view: str, chunk: Tensor, kept: ModulationCache) -> Denoiser:
        """Return the guided denoiser of some slices of a view; it keeps what it may."""
        key, bind = (view, int(chunk[0])), partial(self._bind, view, chunk)
        size = len(chunk) * self._cost(view).kept

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            bound = kept.get(key, size, bind) if self.how.keep_modulations else bind()
            return bound(x, t)

        return denoise

    def _bind(self, view: str, chunk: Tensor) -> Denoiser:
        """Compute the modulations of some slices and bind the network to them."""

        def network(x: Tensor, t: Tensor, position: Tensor, maps: Modulations) -> Tensor:
            with self._autocast():
                output = self.network.denoise(x, t.float(), maps, position, view).float()
            return self._wanted(output, len(x) // len(chunk))

        position = self.slices[view].positions(chunk).to(self.label.device)
        maps = self._modulations(view, chunk)
        if self.how.guidance_scale == 1:
            return lambda x, t: network(x, t, position, maps)
        null = self._modulations(view, chunk[:1], mask=0.0)
        cond: dict[str, Condition] = {"position": position, "maps": maps}
        return classifier_free(network, cond, {"maps": null}, {"maps": self.how.guidance_scale})

    def _wanted(self, output: Tensor, passes: int) -> Tensor:
        """Return the prediction and, where the sampler uses it, the variance of the last pass.

        Guidance adds up the passes with weights whose sum is 1; it is meant for predictions, and
        leaves a variance that is the same in all of them as it is.
        """
        if not self.network.learned_sigma:
            return output
        prediction, logits = output.chunk(2, dim=1)
        if not self.uses_variance:
            return prediction
        conditional = logits.chunk(passes)[-1].repeat(passes, 1, 1, 1)
        return torch.cat([prediction, conditional], dim=1)

    def _modulations(self, view: str, chunk: Tensor, mask: float = 1.0) -> Modulations:
        label = self.slices[view].labels(self.label, chunk, self.network.mask_context)
        with self._autocast():
            return self.network.modulations(mask * self.network.one_hot(label), view)

    def _cost(self, view: str) -> SliceCost:
        if view not in self.costs:
            one = self._modulations(view, torch.zeros(1, dtype=torch.long))
            passes = 1 if self.how.guidance_scale == 1 else 2
            self.costs[view] = SliceCost.of(one, passes)
        return self.costs[view]

    def _budget(self, view: str) -> Budget:
        how = self.how
        cost, noise = self._cost(view), self._shared_noise_bytes()
        return Budget.plan(how.memory_budget_gb, cost, how.slices_per_batch, noise)

    def _shared_noise_bytes(self) -> int:
        """Return the size of the noise that `_kept_noise` holds in the end."""
        if self.how.mode != "mean_shared_noise":
            return 0
        # ddpm draws at the start and after every step but the last
        draws = self.how.num_steps if self.how.sampler == "ddpm" else 1
        return draws * len(self.label) * math.prod(self.size) * 4

    def _chunk_noise(self, view: str, chunk: Tensor) -> NoiseSource:
        slices = self.slices[view]
        if self.how.mode == "mean_shared_noise":
            return lambda step, purpose: slices.take(self._kept_noise(step, purpose), chunk)
        shape = to_slices(torch.empty(1, *self.size, device="meta"), slices.axis).shape[2:]
        windows = (chunk % slices.n + slices.axis * MOST_SLICES).tolist()
        numbers = [self.numbers[i] for i in (chunk // slices.n).tolist()]
        return self._stream(numbers, windows, shape)

    def _kept_noise(self, step: int, purpose: str) -> Tensor:
        """Return volume noise that all views and chunks take their slices from."""
        if (step, purpose) not in self.shared_noise:
            self.shared_noise[step, purpose] = self._volume_noise(step, purpose)
        return self.shared_noise[step, purpose]

    def _volume_noise(self, step: int, purpose: str) -> Tensor:
        channels, depth, height, width = self.size
        numbers = [number for number in self.numbers for _ in range(depth)]
        windows = [SHARED * MOST_SLICES + k for _ in self.numbers for k in range(depth)]
        noise = self._stream(numbers, windows, (channels, height, width))(step, purpose)
        return from_slices(noise.unflatten(0, (-1, depth)), 0).contiguous()

    def _stream(
        self, numbers: Sequence[int], windows: Sequence[int], shape: Sequence[int]
    ) -> NoiseStream:
        return NoiseStream(
            self.seed, numbers, STAGES["sdm"], windows, shape, device=self.label.device
        )

    def _autocast(self) -> torch.autocast:
        return precision_context(self.label.device, self.how.precision)
