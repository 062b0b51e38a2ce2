from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from common.data.datasets import Arrays
from common.diffusion.schedules import build_schedule
from common.errors import MedpairError
from sdm.diffusion import PrepareSliceBatch, SliceDiffusion
from sdm.slices import SliceBatches

LINEAR = build_schedule("linear", 1000)


def prepared(make_arrays: Callable[..., Arrays], diffusion: SliceDiffusion, size: int = 8):  # type: ignore[no-untyped-def]
    draw = SliceBatches(make_arrays(), "brain4", 6, size, stride=4)
    batch = draw(torch.Generator().manual_seed(0)) | {"seed": 1, "iteration": 2}
    return batch, PrepareSliceBatch(diffusion, 6)(batch)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_target_belongs_to_the_noisy_slice(
    make_arrays: Callable[..., Arrays], prediction: str
) -> None:
    diffusion = SliceDiffusion(LINEAR, prediction)  # type: ignore[arg-type]
    batch, (x_t, target, (t, mask, position, view), _) = prepared(make_arrays, diffusion)
    alpha, sigma = (a.float().view(-1, 1, 1, 1) for a in LINEAR.alpha_sigma(t.long()))
    recovered = {
        "eps": (x_t - sigma * target) / alpha,
        "v": alpha * x_t - sigma * target,
        "x0": target,
    }[prediction]
    torch.testing.assert_close(recovered, batch["image"], rtol=0, atol=2e-3)
    assert torch.equal(mask.argmax(1), batch["label"][:, 0].long())
    assert torch.equal(position, batch["position"])
    assert view == batch["view"]


def test_a_dropped_mask_is_all_zero(make_arrays: Callable[..., Arrays]) -> None:
    _, (*_, (_, mask, _, _), _) = prepared(
        make_arrays, SliceDiffusion(LINEAR, "v", mask_dropout=0.5), size=200
    )
    dropped = ~mask.flatten(1).any(1)
    assert 70 < int(dropped.sum()) < 130
    assert bool((mask[~dropped].sum(1) == 1).all())


def test_emphasis_below_one_draws_low_noise_levels_more_often() -> None:
    generator = torch.Generator().manual_seed(0)
    even = SliceDiffusion(LINEAR).draw_timesteps(10_000, generator).float()
    low = SliceDiffusion(LINEAR, noise_emphasis=0.5).draw_timesteps(10_000, generator).float()
    assert abs(float((even < 250).float().mean()) - 0.25) < 0.02
    assert abs(float((low < 250).float().mean()) - 0.5) < 0.02


@pytest.mark.parametrize("options", [{"mask_dropout": 1.5}, {"noise_emphasis": 0.0}])
def test_numbers_outside_their_range(options: dict[str, float]) -> None:
    with pytest.raises(MedpairError, match=r"want 0\.\.1 and above 0"):
        SliceDiffusion(LINEAR, **options)


def test_noise_from_the_image_to_refine_leads_to_that_image_noised() -> None:
    diffusion = SliceDiffusion(LINEAR, "v", before_share=1.0, before_range=(5, 200))
    x_0, before, eps = torch.randn(3, 4, 1, 4, 4).unbind(0)
    t = torch.tensor([4, 5, 199, 200])
    found = diffusion.noise_from(x_0, before, eps, t, torch.Generator().manual_seed(0))
    alpha, sigma = (a.float().view(-1, 1, 1, 1) for a in LINEAR.alpha_sigma(t))
    inside = slice(1, 3)
    torch.testing.assert_close(
        (alpha * x_0 + sigma * found)[inside], (alpha * before + sigma * eps)[inside]
    )
    assert torch.equal(found[[0, 3]], eps[[0, 3]])
    none = SliceDiffusion(LINEAR, "v", before_share=0.0)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(none.noise_from(x_0, before, eps, t, generator), eps)
