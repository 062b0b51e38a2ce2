from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.schedules import build_schedule
from common.errors import MedpairError
from sdm.diffusion import SAMPLERS, SliceDiffusion
from sdm.sampling import SliceSampling

DIFFUSION = SliceDiffusion(build_schedule("linear", 1000), "eps")
STD = 0.2


class Exact(torch.nn.Module):
    """The perfect network for independent pixels N(0, STD^2)."""

    views, image_channels, stride = ("axial", "sagittal"), 2, 4

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.nn.Parameter(torch.zeros(()))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, t: Tensor, mask: None, position: None, view: str) -> Tensor:
        self.sizes.append(tuple(x.shape))
        alpha, sigma = (
            a.view(-1, 1, 1, 1).float() for a in DIFFUSION.schedule.alpha_sigma(t.long())
        )
        return sigma * x / (alpha**2 * STD**2 + sigma**2)


@pytest.fixture
def sampling() -> Callable[..., SliceSampling]:
    def make(**options: Any) -> SliceSampling:
        return SliceSampling(Exact(), DIFFUSION, **({"num_steps": 20} | options))  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drawn_slices_have_the_law_of_the_network(
    sampling: Callable[..., SliceSampling], sampler: str
) -> None:
    drawn = sampling(sampler=sampler, num_steps=500).draw("axial", 20, (16, 16)) * 2 - 1
    assert abs(float(drawn.mean())) < 0.01
    assert float(drawn.std()) == pytest.approx(STD, rel=0.06)


def test_a_slice_depends_on_seed_view_and_number_alone(
    sampling: Callable[..., SliceSampling],
) -> None:
    one = sampling(sampler="ddpm", batch_size=3).draw("axial", 7, (8, 12))
    other = sampling(sampler="ddpm", batch_size=2).draw("axial", 4, (8, 12))
    assert torch.equal(one[:4], other)
    assert len({row.numpy().tobytes() for row in one}) == 7
    assert not torch.equal(one, sampling(sampler="ddpm").draw("sagittal", 7, (8, 12)))
    assert not torch.equal(one, sampling(sampler="ddpm", seed=1).draw("axial", 7, (8, 12)))


def test_sizes_that_the_stride_does_not_divide_are_padded_and_cropped(
    sampling: Callable[..., SliceSampling],
) -> None:
    made = sampling()
    assert made.draw("axial", 2, (9, 12)).shape == (2, 2, 9, 12)
    assert set(made.network.sizes) == {(2, 2, 12, 12)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "rectified_flow"}, "sampler: 'rectified_flow'; want one of ddpm, ddim"),
        ({"num_steps": 1001}, "num_steps: 1001; want 1..1000"),
        ({"batch_size": 0}, "batch_size: 0; want 1 or more"),
    ],
)
def test_bad_settings_are_named(
    sampling: Callable[..., SliceSampling], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedpairError, match=message):
        sampling(**options)


def test_no_slices_are_refused(sampling: Callable[..., SliceSampling]) -> None:
    with pytest.raises(MedpairError, match="slices_per_view: 0; want 1 or more"):
        sampling().draw("axial", 0, (8, 8))
