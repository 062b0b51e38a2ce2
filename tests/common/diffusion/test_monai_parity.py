"""MONAI's schedulers as a second opinion, where they are right."""

from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.samplers import ddim, ddpm, rectified_flow
from common.diffusion.schedules import build_schedule, cosine, linear, select_timesteps

schedulers = pytest.importorskip("monai.networks.schedulers")
OPTIONS: dict[str, Any] = {"clip_sample": False}


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(x + t[:, None] / 1000)


@pytest.fixture
def start() -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("linear", "linear_beta", {"beta_start": 1e-4, "beta_end": 0.02}),
        ("scaled_linear", "scaled_linear_beta", {"beta_start": 0.00085, "beta_end": 0.012}),
    ],
)
def test_tables_agree(name: str, theirs: str, options: dict[str, float]) -> None:
    scheduler = schedulers.DDPMScheduler(1000, schedule=theirs, **options)
    ours = build_schedule(name, **options)
    assert torch.allclose(ours.alpha_bar.float(), scheduler.alphas_cumprod, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [10, 50])
def test_ddim_agrees_on_leading_timesteps(start: Tensor, num_steps: int) -> None:
    timesteps = select_timesteps(1000, num_steps, "leading")
    scheduler = schedulers.DDIMScheduler(1000, schedule="linear_beta", **OPTIONS)
    scheduler.set_timesteps(num_steps)
    # MONAI 1.6 steps from t to t - T // n, which belongs to these timesteps, not to its own
    scheduler.timesteps = torch.tensor(timesteps)
    x = start
    for t in timesteps:
        x, _ = scheduler.step(network(x, torch.full((3,), t)), t, x)
    ours = ddim(network, start, linear(), timesteps, noise=lambda *_: start)
    assert torch.allclose(ours, x, atol=2e-4)


def test_ddpm_mean_agrees_on_all_timesteps(start: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = schedulers.DDPMScheduler(50, schedule="linear_beta", **OPTIONS)
    monkeypatch.setattr(torch, "randn", lambda size, **_: torch.ones(size))
    x = start
    for t in reversed(range(50)):
        x, _ = scheduler.step(network(x, torch.full((3,), t)), t, x)
    ours = ddpm(network, start, linear(50), range(49, -1, -1), noise=lambda *_: torch.ones(3, 5))
    assert torch.allclose(ours, x, rtol=5e-4)


def test_rectified_flow_agrees(start: Tensor) -> None:
    scheduler = schedulers.RFlowScheduler(1000)
    scheduler.set_timesteps(10)
    timesteps = [int(t) for t in scheduler.timesteps]
    x = start
    for t, s in zip(timesteps, [*timesteps[1:], 0], strict=True):
        x, _ = scheduler.step(network(x, torch.full((3,), t)), t, x, next_timestep=s)
    ours = rectified_flow(network, start, cosine(), timesteps, noise=lambda *_: start)
    assert torch.allclose(ours, x, atol=1e-5)
