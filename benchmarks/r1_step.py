"""R1: one sampling step with guidance and known slices, ours against a naive loop and MONAI's.

The same trained mask network, weights and noise. The naive loop does what the formulas say: a pass
with conditions and one without, plain tensor operations, memory format as built. MONAI's
`DiffusionInferer` knows neither guidance by a taken-away condition nor known slices; it runs the
conditional pass alone and is raced against ours doing the same.

    python benchmarks/r1_step.py --batches 1,8 --out r1.json
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler
from race import arguments, check, finish, flops, limits, open_parser, race, speed
from torch import Tensor, nn

from common.diffusion.guidance import classifier_free
from common.diffusion.overlap import KnownSlices
from common.diffusion.rng import STAGES, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import select_timesteps
from common.engines.compiled import compile_steps
from common.engines.inferers import precision_context
from mcdpm.diffusion import network_input

GUIDANCE = 1.75
TOLERANCE = 2e-3  # of codes in [-1, 1] after all steps in fp32; bf16 adds to it over the steps


class Setting:
    """A batch of windows whose first two slices are known."""

    def __init__(self, words: Any, batch: int) -> None:
        parser = open_parser("mcdpm_mask", words.preset)
        self.precision, self.steps = words.precision, words.steps
        self.device = torch.device(words.device)
        self.diffusion = parser.get_parsed_content("diffusion")
        self.network = parser.get_parsed_content("network").to(self.device).eval()
        self.plain = copy.deepcopy(self.network).to(memory_format=torch.contiguous_format)
        self.compiled = copy.deepcopy(self.network)
        sampler = parser.get_parsed_content("sampler")
        shape = (sampler.window, self.diffusion.codec.channels, *sampler.size)
        self.noise = NoiseStream(
            0, list(range(batch)), STAGES["mcdpm"], [0] * batch, shape, self.device
        )
        label = torch.zeros(batch, *shape[:1], *shape[2:], dtype=torch.uint8, device=self.device)
        label[..., shape[2] // 4 : -shape[2] // 4, shape[3] // 4 : -shape[3] // 4] = 1
        self.condition = self.diffusion.codec.encode(label)
        self.known = torch.zeros(batch, shape[0], dtype=torch.bool, device=self.device)
        self.known[:, :2] = True
        self.position = torch.full((batch, 2), 1 / 48, device=self.device)
        self.timesteps = select_timesteps(self.diffusion.schedule.T, words.steps)

    def estimate(self, network: nn.Module, x: Tensor, t: Tensor, known: Tensor) -> Tensor:
        """Return the estimate of x_0 by one pass."""
        given = network_input(x, self.condition, known)
        with precision_context(self.device, self.precision):
            output = network(given, t.float(), self.position)
        return self.diffusion.estimate(output.float())

    @torch.no_grad()
    def ours(self, network: nn.Module, guidance: float = GUIDANCE, overlap: bool = True) -> Tensor:
        """Sample with the library."""

        def denoise(x: Tensor, t: Tensor, condition: Tensor, known: Tensor, at: Tensor) -> Tensor:
            with precision_context(self.device, self.precision):
                output = network(network_input(x, condition, known), t.float(), at)
            return self.diffusion.estimate(output.float())

        denoiser = classifier_free(
            denoise,
            {"condition": self.condition, "known": self.known, "at": self.position},
            {"known": torch.zeros_like(self.known)},
            {"known": guidance},
        )
        known = self.known[:, :, None, None, None]
        return sample(
            "ddim",
            denoiser,
            self.noise(0, "init"),
            self.diffusion.schedule,
            self.timesteps,
            noise=self.noise,
            prediction="x0",
            overlap=KnownSlices(self.condition, known) if overlap else None,
        )

    @torch.no_grad()
    def naive(self) -> Tensor:
        """Sample as the formulas read: two passes, DDIM, known slices put back."""
        schedule, stops = self.diffusion.schedule, [*self.timesteps, -1]
        known, nothing = self.known[:, :, None, None, None], torch.zeros_like(self.known)
        eps_known = self.noise(0, "known")
        x = self.noise(0, "init")
        alpha, sigma = schedule.alpha_sigma(stops[0])
        x = torch.where(known, alpha * self.condition + sigma * eps_known, x)
        for t, s in pairwise(stops):
            time = torch.full((len(x),), t, device=self.device)
            with_known = self.estimate(self.plain, x, time, self.known)
            without = self.estimate(self.plain, x, time, nothing)
            x_0 = without + GUIDANCE * (with_known - without)
            alpha, sigma = schedule.alpha_sigma(t)
            eps = (x - alpha * x_0) / sigma
            alpha, sigma = schedule.alpha_sigma(s) if s >= 0 else (1.0, 0.0)
            x = alpha * x_0 + sigma * eps
            x = torch.where(known, alpha * self.condition + sigma * eps_known, x)
        return x

    @torch.no_grad()
    def monai(self) -> Tensor:
        """Sample with MONAI's inferer and scheduler: no guidance, no known slices imposed."""
        shape = self.condition.shape
        scheduler = DDIMScheduler(
            num_train_timesteps=self.diffusion.schedule.T,
            prediction_type="sample",
            clip_sample=False,
            set_alpha_to_one=True,
        )
        schedule = self.diffusion.schedule
        scheduler.alphas_cumprod = torch.tensor(
            [schedule.alpha_sigma(t)[0] ** 2 for t in range(schedule.T)]
        )
        scheduler.num_inference_steps = len(self.timesteps)
        scheduler.timesteps = torch.tensor(self.timesteps)

        def model(x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
            assert context is None
            time = timesteps.to(self.device).expand(len(x))
            return self.estimate(self.plain, x.view(shape), time, self.known).flatten(1, 2)

        return (
            DiffusionInferer(scheduler)
            .sample(self.noise(0, "init").flatten(1, 2), model, scheduler, verbose=False)
            .view(shape)
        )


def one_batch(words: Any, batch: int) -> dict[str, Any]:
    """Check and race one batch size."""
    s = Setting(words, batch)
    runs: dict[str, Any] = {"ours": lambda: s.ours(s.network), "naive loop": s.naive}
    s.precision = "fp32"  # what is timed in bf16 is checked in fp32
    wanted = runs["ours"]()
    found = {"naive loop": check("naive loop", s.naive(), wanted, TOLERANCE)}
    if words.compile:
        compile_steps(s.compiled)
        runs["ours, --compile"] = lambda: s.ours(s.compiled)
        compiled = runs["ours, --compile"]()
        found["ours, --compile"] = check("compiled", compiled, wanted, TOLERANCE)
    s.precision = words.precision
    times = race(runs, words.repeats, words.device)
    alone = {"ours, one pass": lambda: s.ours(s.network, 1.0, overlap=False), "MONAI": s.monai}
    count = flops(runs["ours"])
    best = limits(words.device, words.precision)
    return {
        "batch": batch,
        "largest_difference": found,
        "ms_per_step": {k: 1e3 * v["seconds"] / words.steps for k, v in times.items()},
        "contestants": times,
        "without_guidance_and_overlap": race(alone, words.repeats, words.device),
        **speed(count, times["ours"]["seconds"], best),
        "limits": best,
    }


def main() -> None:
    """Race all batch sizes."""
    parser = arguments(__doc__.splitlines()[0], batches="1,8", steps=10)
    parser.add_argument("--compile", action="store_true")
    words = parser.parse_args()
    batches = [int(word) for word in words.batches.split(",")]
    finish(words, {"benchmark": "R1 step", "results": [one_batch(words, b) for b in batches]})


if __name__ == "__main__":
    main()
