from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

from common.data.views import view_names
from common.diffusion.rng import NoiseStream
from common.errors import MedpairError
from sdm.diffusion import SliceDiffusion
from sdm.modulation import GIB, SHARE, Budget, SliceCost
from sdm.refine import MODES, Refinement, refine_volumes
from sdm.views import VIEWS, ViewDenoisers

Make = Callable[..., ViewDenoisers]

SIZE = (8, 12, 16)
SPACING = dict(zip(view_names("AP"), (3.0, 1.0, 2.0), strict=True))
LABEL = torch.randint(
    0, 6, (2, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
IMAGE = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Oracle:
    """Exact denoiser of independent normal pixels N(mean, std^2), as a stand-in for the networks.

    Its mean may differ between views: ``by_view`` is added for each.
    """

    image_channels, mask_context, stride, num_classes, learned_sigma = 1, 0, 4, 6, False

    def __init__(
        self, diffusion: SliceDiffusion, std: float, by_view: dict[str, float] | None = None
    ):
        self.diffusion, self.std, self.by_view = diffusion, std, by_view or {}
        self.slices_seen: list[int] = []

    def one_hot(self, label: Tensor) -> Tensor:
        return label.float()

    def modulations(self, mask: Tensor, view: str) -> list[Tensor]:
        return [mask / 5 - 0.5 + self.by_view.get(view, 0.0)]

    def denoise(
        self, x: Tensor, t: Tensor, maps: list[Tensor], position: Tensor, view: str
    ) -> Tensor:
        self.slices_seen.append(len(x))
        mean = maps[0]
        alpha, sigma = (
            a.float().view(-1, 1, 1, 1) for a in self.diffusion.schedule.alpha_sigma(t.long())
        )
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        x_0 = mean + gain * (x - alpha * mean)
        return (alpha * x - x_0) / sigma  # v


def refine(network: Any, how: Refinement, **changes: Any) -> Tensor:
    options: dict[str, Any] = {
        "label": LABEL,
        "image": IMAGE,
        "volumes": [3, 8],
        "seed": 5,
    } | changes
    return refine_volumes(
        network,
        options["label"],
        options["image"],
        how,
        spacing=SPACING,
        seed=options["seed"],
        volumes=options["volumes"],
    )


@pytest.mark.parametrize("mode", MODES)
def test_no_noise_steps_leave_the_image_as_it_is(
    make_network: Make, diffusion: SliceDiffusion, mode: str
) -> None:
    assert torch.equal(refine(make_network(), Refinement(diffusion, 0, mode=mode)), IMAGE)


@pytest.mark.parametrize("mode", MODES)
def test_an_exact_denoiser_of_sure_pixels_gives_them(diffusion: SliceDiffusion, mode: str) -> None:
    """Pixels without variance are known from the mask, whatever the noise and the mode."""
    found = refine(Oracle(diffusion, std=0.0), Refinement(diffusion, 200, 5, mode))
    torch.testing.assert_close(found[:, 0], LABEL / 5 - 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_distribution_of_real_pixels_stays(diffusion: SliceDiffusion, mode: str) -> None:
    """x_0 ~ N(mean, std^2) noised and denoised exactly keeps its variance; averages lose some."""
    mean, std, size = 0.3, 0.5, (16, 24, 24)
    label = torch.full((1, *size), 4, dtype=torch.uint8)
    clean = mean + std * torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(2))
    how = Refinement(diffusion, 300, 60, mode, sampler="ddim")
    found = refine(Oracle(diffusion, std), how, label=label, image=clean, volumes=[0])
    alpha, sigma = diffusion.schedule.alpha_sigma(299)
    kept = (alpha * std) ** 2 / ((alpha * std) ** 2 + sigma**2)  # share of variance from x_0
    # "mean": the part that the noise decides is averaged over three independent draws
    wanted = {"mean": std * (kept + (1 - kept) / 3) ** 0.5}.get(mode, std)
    assert abs(float(found.mean()) - mean) < 0.02
    assert abs(float(found.std()) / wanted - 1) < 0.03


def test_the_mean_of_identical_views_is_the_view(diffusion: SliceDiffusion) -> None:
    how = Refinement(diffusion, 100, 4, "mean_shared_noise", sampler="ddpm")
    three = refine(Oracle(diffusion, 0.3), how)
    for view in VIEWS:
        torch.testing.assert_close(
            three, refine(Oracle(diffusion, 0.3), replace(how, views=[view]))
        )


def test_joint_averages_the_predictions_and_cycle_takes_turns(diffusion: SliceDiffusion) -> None:
    by_view = {"axial": 0.3, "coronal": 0.0, "sagittal": -0.3}
    oracle, plain = Oracle(diffusion, 0.2, by_view), Oracle(diffusion, 0.2)
    joint = Refinement(diffusion, 100, 4, "joint")
    torch.testing.assert_close(refine(oracle, joint), refine(plain, joint), rtol=0, atol=1e-5)
    last_view = VIEWS[3 % 3]  # of the fourth and last step
    cycled = refine(Oracle(diffusion, 0.0, by_view), replace(joint, mode="cycle"))
    wanted = LABEL / 5 - 0.5 + by_view[last_view]
    torch.testing.assert_close(cycled[:, 0], wanted, rtol=0, atol=1e-5)


def test_cycle_calls_a_third_of_the_networks(diffusion: SliceDiffusion) -> None:
    counts = {}
    for mode in ("joint", "cycle"):
        oracle = Oracle(diffusion, 0.2)
        refine(oracle, Refinement(diffusion, 100, 6, mode))
        counts[mode] = sum(oracle.slices_seen)
    assert counts["joint"] == 6 * 2 * sum(SIZE)
    assert counts["cycle"] * 3 == counts["joint"]


def test_view_weights_follow_the_distance_of_the_slices(diffusion: SliceDiffusion) -> None:
    by_view = {"axial": 0.3, "coronal": 0.0, "sagittal": -0.3}
    how = Refinement(diffusion, 100, 2, "mean", view_weights="spacing")
    shares = dict(zip(VIEWS, how.shares(SPACING), strict=True))
    assert shares == pytest.approx({"coronal": 0.5, "axial": 1 / 6, "sagittal": 1 / 3})
    found = refine(Oracle(diffusion, 0.0, by_view), how)
    offset = sum(shares[view] * by_view[view] for view in VIEWS)
    torch.testing.assert_close(found[:, 0], LABEL / 5 - 0.5 + offset, rtol=0, atol=1e-5)
    given = replace(how, view_weights=[2.0, 1.0, 1.0]).shares(SPACING)
    assert given == pytest.approx((0.5, 0.25, 0.25))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("mode", MODES)
def test_kept_modulations_change_no_bit(
    make_network: Make, diffusion: SliceDiffusion, mode: str, scale: float
) -> None:
    network = make_network(views="shared", mask_context=1)
    how = Refinement(
        diffusion, 50, 3, mode, guidance_scale=scale, sampler="ddpm", slices_per_batch=5
    )
    kept = refine(network, how)
    assert torch.equal(kept, refine(network, replace(how, keep_modulations=False)))


@pytest.mark.parametrize("mode", ["mean", "joint"])
def test_a_small_budget_changes_no_bit_of_what_is_computed(
    make_network: Make, diffusion: SliceDiffusion, mode: str
) -> None:
    network = make_network()
    how = Refinement(diffusion, 50, 3, mode, slices_per_batch=4)
    tight = replace(how, memory_budget_gb=2e-3)
    torch.testing.assert_close(refine(network, how), refine(network, tight), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1.75])
@pytest.mark.parametrize("mode", ["mean", "joint"])
def test_maps_alive_during_a_call_stay_within_the_budget(
    make_network: Make, diffusion: SliceDiffusion, mode: str, scale: float
) -> None:
    network = make_network()
    alive: list[ref[Tensor]] = []
    used: list[int] = []
    modulations, denoise = network.modulations, network.denoise

    def noted(mask: Tensor, view: str) -> list[Tensor]:
        maps = modulations(mask, view)
        alive.extend(map(ref, maps))
        return maps

    def measured(x: Tensor, t: Tensor, maps: list[Tensor], *rest: Any) -> Tensor:
        alive.extend(ref(m) for m in maps if not any(m is one() for one in alive))
        alive[:] = [one for one in alive if one() is not None]
        working = len(x) * SliceCost.of([m[:1] for m in maps], passes=1).working
        used.append(working + sum(one().nbytes for one in alive))  # type: ignore[union-attr]
        return denoise(x, t, maps, *rest)

    network.modulations, network.denoise = noted, measured  # type: ignore[method-assign]
    gigabytes = 2.5e-3  # less than all maps take
    refine(
        network,
        Refinement(diffusion, 50, 2, mode, guidance_scale=scale, memory_budget_gb=gigabytes),
    )
    assert 0.4 < max(used) / (gigabytes * GIB) <= SHARE


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver_pp_2m"])
def test_noise_that_views_share_counts_in_the_budget(
    diffusion: SliceDiffusion, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, plan, reserved = [], Budget.plan, set()

    class Stream(NoiseStream):
        def __call__(self, step: int, purpose: str = "step") -> Tensor:
            noise = super().__call__(step, purpose)
            drawn.append(noise.nbytes)
            return noise

    def planned(gigabytes: float, cost: SliceCost, most: int, other: int = 0) -> Budget:
        reserved.add(other)
        return plan(gigabytes, cost, most, other)

    monkeypatch.setattr("sdm.refine.NoiseStream", Stream)
    monkeypatch.setattr(Budget, "plan", staticmethod(planned))
    refine(Oracle(diffusion, 0.2), Refinement(diffusion, 50, 4, MODES[1], sampler=sampler))
    assert reserved == {sum(drawn)}
    small = Refinement(diffusion, 900, 500, MODES[1], sampler="ddpm", memory_budget_gb=1e-3)
    with pytest.raises(MedpairError, match=r"one slice and the shared noise want .*; raise it"):
        refine(Oracle(diffusion, 0.2), small)


def test_scale_one_is_conditional_and_zero_unconditional(
    make_network: Make, diffusion: SliceDiffusion
) -> None:
    network = make_network()
    how = Refinement(diffusion, 50, 2, "mean")
    conditional = refine(network, how)
    assert torch.equal(conditional, refine(network, replace(how, guidance_scale=1.0)))
    nothing = replace(how, guidance_scale=0.0)
    other = (LABEL + 1) % 6
    torch.testing.assert_close(
        refine(network, nothing), refine(network, nothing, label=other), rtol=0, atol=1e-6
    )
    assert not torch.allclose(conditional, refine(network, how, label=other), atol=1e-4)
    near_one = refine(network, replace(how, guidance_scale=1.0 + 1e-6))
    torch.testing.assert_close(near_one, conditional, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_volume_does_not_depend_on_its_neighbours(
    make_network: Make, diffusion: SliceDiffusion, mode: str
) -> None:
    network = make_network()
    how = Refinement(diffusion, 50, 3, mode, sampler="ddpm")
    both = refine(network, how)
    alone = refine(network, how, label=LABEL[1:], image=IMAGE[1:], volumes=[8])
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5)
    assert not torch.equal(both, refine(network, how, seed=6))


def test_from_noise_it_generates(make_network: Make, diffusion: SliceDiffusion) -> None:
    how = Refinement(diffusion, None, 4, "joint", sampler="dpm_solver_pp_2m")
    made = refine(make_network(), how, image=None)
    assert made.shape == IMAGE.shape
    sure = refine(Oracle(diffusion, 0.0), how, image=None)
    torch.testing.assert_close(sure[:, 0], LABEL / 5 - 0.5, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"t_start": -1}, r"t_start: -1; want 1\.\.999"),
        ({"t_start": 1000}, r"t_start: 1000; want 1\.\.999"),
        ({"t_start": 10, "num_steps": 11}, r"num_steps: 11; want 1\.\.10"),
        ({"num_steps": 0}, r"num_steps: 0; want 1\.\.10"),
        ({"mode": "median"}, "mode: 'median'; want one of mean, mean_shared_noise, joint, cycle"),
        ({"views": ["axial", "oblique"]}, r"views: \['axial', 'oblique'\]; want different ones of"),
        ({"mode": "cycle", "num_steps": 1}, "num_steps: 1; mode cycle wants 3 or more"),
        ({"sampler": "euler"}, "^sampler: 'euler'; want one of ddpm, ddim, dpm_solver_pp_2m$"),
        ({"sampler": "rectified_flow"}, "^sampler: 'rectified_flow'; want one of ddpm, ddim"),
        ({"views": []}, r"views: \[\]; want"),
        ({"view_weights": [1.0]}, r"view_weights: \[1.0\]; want null, 'spacing' or 3 numbers"),
        ({"view_weights": "thick"}, "view_weights: 'thick'; want"),
        ({"view_weights": [0.0, 0.0, 0.0]}, "want at least one above 0"),
    ],
)
def test_settings_outside_their_range(
    diffusion: SliceDiffusion, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(MedpairError, match=words):
        Refinement(diffusion, **options)


def test_a_budget_below_one_slice(make_network: Make, diffusion: SliceDiffusion) -> None:
    with pytest.raises(
        MedpairError, match=r"memory_budget_gb: 1e-06; one slice wants .*; raise it"
    ):
        refine(make_network(), Refinement(diffusion, memory_budget_gb=1e-6))
