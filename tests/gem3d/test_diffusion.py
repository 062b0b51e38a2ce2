"""B windows, S slices per window, C latent channels, h, w latent size, T time steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from common.diffusion.schedules import build_schedule, to_x0_eps
from common.errors import MedpairError
from gem3d.diffusion import PrepareWindowBatch, VolumeDiffusion, WindowLoss
from gem3d.windows import LatentVolumes, WindowBatches

SHORT = build_schedule("cosine", 10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(make: Any, windows: int = 4, **kw: Any) -> dict[str, Any]:
    latents = LatentVolumes(make.volumes(), make.autoencoder())
    batch = WindowBatches(latents, 5, windows, **kw)(generator())
    return batch | {"seed": 3, "iteration": 7}


def prepare(make: Any, batch: dict[str, Any], **kw: Any) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    diffusion = VolumeDiffusion(make.schedule, **kw)
    x_t, target, arguments, keywords = PrepareWindowBatch(diffusion, make.encoding())(
        batch, "cpu", False
    )
    assert keywords == {}
    return x_t, target, arguments


# ---- draws


def test_every_slice_or_every_window_has_its_time_step() -> None:
    slices = VolumeDiffusion(SHORT, times="slice").draw_times(400, 5, generator())
    windows = VolumeDiffusion(SHORT, times="window").draw_times(400, 5, generator())
    assert slices.shape == windows.shape == (400, 5)
    assert slices.dtype == windows.dtype == torch.int64
    assert (windows == windows[:, :1]).all()
    agree = (slices[:, 0] == slices[:, 1]).float().mean()
    assert float(agree) == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("low_noise", [False, True])
@pytest.mark.parametrize("times", ["slice", "window"])
def test_time_steps_have_the_density_that_is_asked_for(times: Any, low_noise: bool) -> None:
    diffusion = VolumeDiffusion(SHORT, times=times, low_noise=low_noise)
    drawn = diffusion.draw_times(8000, 1, generator()).flatten()
    t = torch.arange(10)
    weight = (20 - t if low_noise else torch.ones(10)).double()
    counts = torch.bincount(drawn, minlength=10)
    assert chisquare(counts, 8000 * weight / weight.sum()).pvalue > 1e-3
    other = (torch.ones(10) if low_noise else 20 - t).double()
    assert chisquare(counts, 8000 * other / other.sum()).pvalue < 1e-6


@pytest.mark.parametrize(
    "shares", [(0.1, 0.2, 0.05), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0)]
)
def test_conditions_are_dropped_as_often_as_asked(shares: tuple[float, float, float]) -> None:
    mask, informed, both = shares
    diffusion = VolumeDiffusion(
        SHORT, mask_dropout=mask, informed_dropout=informed, both_dropout=both
    )
    with_mask, with_informed = diffusion.draw_kept(20_000, generator())
    found = {
        "mask": ~with_mask & with_informed,
        "informed": with_mask & ~with_informed,
        "both": ~with_mask & ~with_informed,
    }
    for (name, dropped), share in zip(found.items(), shares, strict=True):
        assert float(dropped.float().mean()) == pytest.approx(share, abs=0.01), name


# ---- input and target


@pytest.mark.parametrize("times", ["slice", "window"])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_target_leads_back_to_the_clean_latents(prediction: Any, times: Any, make: Any) -> None:
    batch = batch_of(make)
    x_t, target, (t, *_) = prepare(make, batch, prediction=prediction, times=times)
    assert target.shape == (4, 5, make.channels + 1, 4, 3)
    assert (target[:, :, -1] == 1).all()
    alpha, sigma = (a[:, :, None, None, None].float() for a in make.schedule.alpha_sigma(t.long()))
    x_0, eps = to_x0_eps(target[:, :, :-1], x_t, alpha, sigma, prediction)
    torch.testing.assert_close(x_0, batch["latent"], atol=1e-3, rtol=1e-3)
    assert 0.9 < float(eps.std()) < 1.1
    assert ((t == t[:, :1]).all()) == (times == "window")


def test_given_slices_are_clean_and_count_for_nothing(make: Any) -> None:
    batch = batch_of(make, 8, inpaint_share=1.0)
    x_t, target, (*_, known) = prepare(make, batch)
    assert torch.equal(known, batch["known"])
    assert torch.equal(x_t[known], batch["latent"][known])
    assert ((x_t[~known] - batch["latent"][~known]).abs().amax((1, 2, 3)) > 1e-3).all()
    assert (target[:, :, -1][known] == 0).all()
    assert (target[:, :, -1][~known] == 1).all()
    wrong = target[:, :, :-1].clone()
    wrong[known] += 5
    loss = WindowLoss()
    assert loss(wrong, target) == 0
    wrong[~known] += 2
    torch.testing.assert_close(loss(wrong, target), torch.tensor(4.0))


def test_the_loss_is_the_mean_over_the_slices_to_make() -> None:
    target = torch.zeros(1, 4, 3, 2, 2)
    target[:, 1:3, -1] = 1
    prediction = torch.zeros(1, 4, 2, 2, 2)
    prediction[:, 1] = 3
    torch.testing.assert_close(WindowLoss()(prediction, target), torch.tensor(4.5))
    assert WindowLoss()(prediction, torch.zeros_like(target)) == 0  # all given: no division by zero


@pytest.mark.parametrize("which", ["mask", "informed", "both"])
def test_dropped_conditions_are_zeros(which: str, make: Any) -> None:
    shares = {"mask_dropout": 0.0, "informed_dropout": 0.0, "both_dropout": 0.0}
    batch = batch_of(make)
    _, _, (_, mask, informed, offset, position, _) = prepare(
        make, batch, **(shares | {which + "_dropout": 1.0})
    )
    kept_mask, kept_informed = which == "informed", which == "mask"
    expected = make.encoding()(batch["label"]) * kept_mask
    assert torch.equal(mask, expected)
    assert torch.equal(informed, batch["informed"] * kept_informed)
    assert torch.equal(offset, batch["offset"])
    assert torch.equal(position, batch["position"])


def test_each_window_drops_its_own_conditions(make: Any) -> None:
    batch = batch_of(make, 40)
    shares = {"mask_dropout": 0.3, "informed_dropout": 0.3, "both_dropout": 0.1}
    _, _, (_, mask, informed, *_) = prepare(make, batch, **shares)
    with_mask, with_informed = (x.flatten(1).any(1) for x in (mask, informed))
    kinds = set(zip(with_mask.tolist(), with_informed.tolist(), strict=True))
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


def test_draws_depend_on_seed_and_iteration_only(make: Any) -> None:
    batch = batch_of(make)
    one, again = (prepare(make, batch)[0] for _ in range(2))
    assert torch.equal(one, again)
    for key in ("seed", "iteration"):
        assert not torch.equal(prepare(make, batch | {key: 8})[0], one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_dropout": 0.9}, r"mask_dropout, informed_dropout, both_dropout: .*sum <= 1"),
        ({"informed_dropout": -0.1}, r"want shares >= 0"),
        ({"times": "volume"}, r"times: 'volume'; want 'slice' or 'window'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MedpairError, match=message):
        VolumeDiffusion(SHORT, **changes)


def test_noise_emphasis_draws_high_noise_more_often() -> None:
    schedule = build_schedule("scaled_linear", 1000)
    plain, high = (
        VolumeDiffusion(schedule, noise_emphasis=k).draw_times(
            4000, 1, torch.Generator().manual_seed(0)
        )
        for k in (1.0, 2.0)
    )
    # density k t^(k-1): the share above 800 is 1 - 0.8^k
    assert float((plain >= 800).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float((high >= 800).float().mean()) == pytest.approx(0.36, abs=0.02)
    with pytest.raises(MedpairError, match="noise_emphasis: 0; want > 0"):
        VolumeDiffusion(schedule, noise_emphasis=0)
