import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.diffusion.overlap import KnownSlices, Level, plan_moves, renoise
from common.diffusion.rng import NoiseStream
from common.diffusion.samplers import SAMPLERS, ddim, sample
from common.diffusion.schedules import (
    FlowSchedule,
    build_schedule,
    cosine,
    scaled_linear,
    select_flow_timesteps,
    select_timesteps,
)
from common.diffusion.windows import Window, plan_windows
from common.errors import MedpairError

F64 = torch.float64
ALL: list[tuple[str, dict[str, float]]] = [
    ("ddpm", {}),
    ("ddim", {"eta": 0.0}),
    ("ddim", {"eta": 1.0}),
    ("dpm_solver_pp_2m", {}),
    ("rectified_flow", {}),
]


def timesteps_for(name: str, num_steps: int) -> tuple[int, ...]:
    select = select_flow_timesteps if name == "rectified_flow" else select_timesteps
    return select(1000, num_steps)


@pytest.mark.parametrize("jumps", [(1, 1), (3, 2)])
@pytest.mark.parametrize(("name", "kw"), ALL)
def test_imposed_slices_have_the_schedulers_sigma_and_end_exactly_clean(
    schedule_for: Any, name: str, kw: dict[str, float], jumps: tuple[int, int]
) -> None:
    schedule, shape = schedule_for(name), (3, 20_000)
    known = torch.linspace(-1, 1, 20_000).expand(shape)
    mask = torch.tensor([True, False, True])[:, None]
    noise = NoiseStream(4, [0], 1, [0], shape)
    checked = []

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(int(t[0]))
        imposed = (x_t[0] - alpha * known)[[0, 2]]
        assert imposed.std().item() == pytest.approx(sigma, rel=0.01)
        assert abs(imposed.mean().item()) < 4 * sigma / math.sqrt(40_000)
        checked.append(int(t[0]))
        return torch.zeros_like(x_t)

    timesteps = timesteps_for(name, 8)
    overlap = KnownSlices(known, mask, *jumps)
    x_0 = sample(
        name,
        network,
        noise(0, "init"),
        schedule,
        timesteps,
        noise=noise,
        prediction="x0",
        overlap=overlap,
        **kw,
    )
    assert set(checked) == set(timesteps)
    assert torch.equal(x_0[0, [0, 2]], known[[0, 2]])
    assert not torch.equal(x_0[0, 1], known[1])


@pytest.mark.parametrize(("name", "kw"), ALL)
def test_known_noise_is_fixed_for_deterministic_samplers_and_fresh_for_stochastic_ones(
    schedule_for: Any, name: str, kw: dict[str, float]
) -> None:
    schedule, noises = schedule_for(name), []
    noise = NoiseStream(4, [0], 1, [0], (64,), dtype=F64)

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        noises.append(x_t / schedule.alpha_sigma(int(t[0]))[1])  # what is known is zero here
        return torch.zeros_like(x_t)

    overlap = KnownSlices(torch.zeros(64, dtype=F64), torch.ones(64, dtype=torch.bool))
    start, timesteps = noise(0, "init"), timesteps_for(name, 6)
    options: dict[str, Any] = {"noise": noise, "prediction": "x0", "overlap": overlap, **kw}
    sample(name, network, start, schedule, timesteps, **options)
    same = [torch.allclose(a, noises[0]) for a in noises[1:]]
    assert same == [name != "ddpm" and kw.get("eta", 0) == 0] * 5


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp_2m", "rectified_flow"])
def test_a_jump_back_starts_a_new_trajectory_with_new_known_noise(
    schedule_for: Any, name: str
) -> None:
    schedule, noises = schedule_for(name), []
    noise = NoiseStream(4, [0], 1, [0], (64,), dtype=F64)

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        noises.append(x_t / schedule.alpha_sigma(int(t[0]))[1])
        return torch.zeros_like(x_t)

    zeros, mask = torch.zeros(64, dtype=F64), torch.ones(64, dtype=torch.bool)
    overlap, timesteps = KnownSlices(zeros, mask, resample=2, jump=2), timesteps_for(name, 5)
    options: dict[str, Any] = {"noise": noise, "prediction": "x0", "overlap": overlap}
    sample(name, network, noise(0, "init"), schedule, timesteps, **options)
    # the walk is 0 1 (2 back to 0) 0 1 2 3 (4 back to 2) 2 3 4
    change = [not torch.allclose(a, b) for a, b in pairwise(noises)]
    assert change == [False, True, False, False, False, True, False, False]


def test_the_solver_forgets_its_history_when_it_jumps_back() -> None:
    """Each call predicts its own number, so a step of second order would show the previous one."""
    schedule, timesteps, calls = cosine(), select_timesteps(1000, 5), []
    states: list[Tensor] = []

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append((x_t, int(t[0])))
        return torch.full_like(x_t, float(len(calls)))

    zeros = torch.zeros(1, 2, dtype=F64)
    overlap = KnownSlices(zeros, torch.zeros(2, dtype=torch.bool), resample=2, jump=2)
    sample(
        "dpm_solver_pp_2m",
        network,
        zeros,
        schedule,
        timesteps,
        noise=lambda *_: zeros,
        prediction="x0",
        overlap=overlap,
        on_step=lambda move, t, x: states.append(x),
    )
    x_t, t = calls[6]  # the first call after the jump from stop 4 back to stop 2, move 7
    assert t == timesteps[2]
    (a_t, s_t), (a_s, s_s) = (schedule.alpha_sigma(timesteps[i]) for i in (2, 3))
    first_order = s_s / s_t * x_t + (a_s - s_s / s_t * a_t) * 7
    assert torch.allclose(states[8], first_order)


@pytest.mark.parametrize(("name", "kw"), ALL)
def test_windows_of_a_denoiser_that_sees_the_known_slices_give_the_law_of_the_volume(
    gaussian: Any, schedule_for: Any, name: str, kw: dict[str, float]
) -> None:
    """Neighbours depend on each other only through the known slice, so windows lose nothing.

    The denoiser gets the known slices clean, as MC-DPM's does. Planner, sampler, overlap and noise
    must then give every volume the mean and covariance of the data, across all window borders.
    """
    count, depth, window = 20_000, 9, 4
    law, schedule, timesteps = gaussian(depth), schedule_for(name), timesteps_for(name, 100)
    plan = plan_windows(depth, window, 1, 3)
    volume = torch.full((count, depth), torch.nan)

    def generate(w: Window) -> Tensor:
        inside = slice(w.start, w.start + window)
        known, new = w.local(w.known), w.local(w.new)
        mask = torch.zeros(window, dtype=torch.bool)
        mask[known] = True
        x_known = volume[:, inside]
        part = type(law)(law.mean[inside], law.cov[inside, inside])
        positions = list(range(window))[known]
        given_known = part.condition(positions, x_known[:, known].double()) if positions else part

        def network(x_t: Tensor, t: Tensor) -> Tensor:
            x_0 = x_known.clone()
            alpha, sigma = schedule.alpha_sigma(int(t[0]))
            x_0[:, new] = given_known.denoise(x_t[:, new], alpha, sigma)
            return x_0

        noise = NoiseStream(2, range(count), 1, [w.start] * count, (window,))
        start, overlap = noise(0, "init"), KnownSlices(x_known, mask)
        options: dict[str, Any] = {"noise": noise, "prediction": "x0", "overlap": overlap, **kw}
        return sample(name, network, start, schedule, timesteps, **options)

    for windows in plan:
        for w in windows:
            x_0 = generate(w)
            assert torch.equal(x_0[:, w.local(w.known)], volume[:, w.known.start : w.known.stop])
            volume[:, w.new.start : w.new.stop] = x_0[:, w.local(w.new)]
    found = volume.double()
    assert (found.mean(0) - law.mean).abs().max().item() < 4 * math.sqrt(0.5 / count)
    # 4 standard errors of a covariance, plus the error that 100 first order steps have
    assert (torch.cov(found.T) - law.cov).abs().max().item() < 4 * 0.5 * math.sqrt(2 / count) + 0.03


# Few levels near the noise, many near the data: resampling has to forget the start at each level
LEVELS = (999, 900, 800, 650, 500, 350, 250, 180, 130, 90, 60, 40, 25, 15)


def repaint(gaussian: Any, schedule: Any, name: str, count: int, **known: Any) -> tuple[Any, Any]:
    """Inpaint one known slice of four with the unconditional denoiser: (samples, truth)."""
    law, values = gaussian(4), torch.tensor([0.9], dtype=F64)
    truth = law.condition([0], values)
    x_0 = torch.tensor([0.9, 0, 0, 0])
    overlap = KnownSlices(x_0, torch.tensor([True, False, False, False]), **known)
    noise = NoiseStream(8, range(count), 1, [0] * count, (4,))
    timesteps = tuple(t + 1 for t in LEVELS) if name == "rectified_flow" else LEVELS
    network, start = law.denoiser(schedule), noise(0, "init")
    options: dict[str, Any] = {"noise": noise, "prediction": "x0", "overlap": overlap}
    found = sample(name, network, start, schedule, timesteps, **options).double()
    return found[:, 1:], truth


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_resampling_reaches_the_conditional_mean_and_covariance(
    gaussian: Any, schedule_for: Any, name: str
) -> None:
    """Replacement alone is biased when the denoiser sees the known slices only as noisy data.

    It uses p(x_s | noisy known) where p(x_s | clean known) is right. Resampling at low noise, where
    the two agree, is the cure (RePaint, section 4.2): the bias falls with the number of rounds.
    """
    found, truth = repaint(gaussian, schedule_for(name), name, 2000, resample=100)
    once, _ = repaint(gaussian, schedule_for(name), name, 2000)
    bias, bias_once = ((x.mean(0) - truth.mean).abs().max().item() for x in (found, once))
    assert bias < 0.025 + 4 * math.sqrt(0.5 / 2000)  # 0.025: what 100 rounds leave, of 0.85
    assert bias_once > 0.4
    error = (torch.cov(found.T) - truth.cov).abs().max().item()
    assert error < step_error(gaussian(4), schedule_for(name), name) + 4 * 0.5 * math.sqrt(2 / 2000)


def step_error(law: Any, schedule: Any, name: str) -> float:
    """Error of the covariance that so few steps make without anything known."""
    timesteps = tuple(t + 1 for t in LEVELS) if name == "rectified_flow" else LEVELS
    network = law.denoiser(schedule)

    def run(x_T: Tensor, noise: Any) -> Tensor:
        return sample(name, network, x_T, schedule, timesteps, noise=noise, prediction="x0")

    return float((law.exact_moments(run)[1] - law.cov).abs().max())


def exact_mean(law: Any, schedule: Any, name: str, timesteps: Any, overlap: KnownSlices) -> Tensor:
    """The mean of the samples; without chance, because the sampler is affine in its draws."""
    zeros = torch.zeros(1, 4, dtype=F64)
    options: dict[str, Any] = {"noise": lambda *_: zeros, "prediction": "x0", "overlap": overlap}
    return sample(name, law.denoiser(schedule), zeros, schedule, timesteps, **options)[0]


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_bias_falls_towards_zero_with_the_rounds(
    gaussian: Any, schedule_for: Any, name: str
) -> None:
    law, x_0 = gaussian(4), torch.tensor([0.9, 0, 0, 0], dtype=F64)
    truth, mask = law.condition([0], x_0[:1]).mean, torch.tensor([True, False, False, False])
    timesteps = tuple(t + 1 for t in LEVELS) if name == "rectified_flow" else LEVELS

    def bias(resample: int) -> float:
        overlap = KnownSlices(x_0, mask, resample)
        found = exact_mean(law, schedule_for(name), name, timesteps, overlap)
        return float((found[1:] - truth).abs().max())

    found = [bias(resample) for resample in (1, 10, 100, 300)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.012


def test_official_noise_repeats_the_levels_of_the_released_code() -> None:
    """Methods section 7.3, row 1: sigma used against sigma right, by DDIM counter."""
    schedule, timesteps = scaled_linear(), tuple(range(996, 0, -5))
    shape = (20_000,)
    stds: dict[str, dict[int, float]] = {"official": {}, "correct": {}}
    for known_noise, seen in stds.items():
        noise = NoiseStream(4, [0], 1, [0], shape)
        overlap = KnownSlices(
            torch.zeros(shape),
            torch.ones(shape, dtype=torch.bool),
            known_noise=known_noise,  # type: ignore[arg-type]
        )

        def record(move: int, t: int, x: Tensor, seen: dict[int, float] = seen) -> None:
            seen[199 - move] = x.std().item()

        kw: dict[str, Any] = {"overlap": overlap, "on_step": record, "prediction": "x0"}
        ddim(lambda x, _: x, noise(0, "init"), schedule, timesteps, noise=noise, eta=1.0, **kw)
    published = {199: (0.495, 0.997), 150: (0.415, 0.971), 100: (0.325, 0.848)}
    published |= {50: (0.220, 0.565), 10: (0.098, 0.210), 0: (0.029, 0.0)}
    for counter, (official, correct) in published.items():
        assert stds["official"][counter] == pytest.approx(official, rel=0.02), counter
        assert stds["correct"][counter] == pytest.approx(correct, rel=0.02), counter


def test_official_noise_starts_at_the_right_level_and_does_not_end_clean(gaussian: Any) -> None:
    schedule, shape = cosine(), (20_000,)
    noise, first = NoiseStream(4, [0], 1, [0], shape), []
    overlap = KnownSlices(
        torch.zeros(shape), torch.ones(shape, dtype=torch.bool), known_noise="official"
    )

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        first.append(x_t.std().item())
        return x_t

    start, timesteps = noise(0, "init"), select_timesteps(1000, 5)
    x_0 = ddim(network, start, schedule, timesteps, noise=noise, overlap=overlap, eta=1.0)
    assert first[0] == pytest.approx(schedule.alpha_sigma(999)[1], rel=0.02)
    assert x_0.std().item() == pytest.approx(schedule.alpha_sigma(0)[1], rel=0.02)


@given(st.integers(0, 998), st.integers(1, 999), st.booleans())
def test_jumping_back_keeps_the_marginal(t: int, gap: int, flow: bool) -> None:
    schedule: Any = FlowSchedule(1000) if flow else build_schedule("linear")
    noisier_t = min(t + gap, 999)
    level = Level(t, *schedule.alpha_sigma(t))
    noisier = Level(noisier_t, *schedule.alpha_sigma(noisier_t))
    # x = alpha x_0 + sigma eps: follow the weights of x_0, the old eps and the new one
    unit = torch.eye(3, dtype=F64)
    weights = renoise(level.alpha * unit[0] + level.sigma * unit[1], level, noisier, unit[2])
    assert weights[0].item() == pytest.approx(noisier.alpha, rel=1e-9)
    assert weights[1:].norm().item() == pytest.approx(noisier.sigma, rel=1e-9)


def test_jumping_back_is_the_published_formula() -> None:
    """RePaint for respaced steps, and the like for rectified flow (methods, section 9)."""
    schedule, x, eps = cosine(), torch.tensor(0.7), torch.tensor(-1.2)
    low, high = (Level(t, *schedule.alpha_sigma(t)) for t in (200, 350))
    ratio = schedule.alpha_bar[350] / schedule.alpha_bar[200]
    assert renoise(x, low, high, eps).item() == pytest.approx(
        (ratio.sqrt() * 0.7 - (1 - ratio).sqrt() * 1.2).item(), rel=1e-5
    )
    low, high = (Level(t, *FlowSchedule(10).alpha_sigma(t)) for t in (3, 5))
    by_eps = math.sqrt(0.5**2 - (0.3 * 0.5 / 0.7) ** 2)
    assert renoise(x, low, high, eps).item() == pytest.approx(
        0.5 / 0.7 * 0.7 - by_eps * 1.2, rel=1e-5
    )


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 12))
def test_the_walk_visits_every_stop_the_right_number_of_times(
    num_steps: int, resample: int, jump: int
) -> None:
    if resample > 1 and jump >= num_steps:
        with pytest.raises(MedpairError, match=f"jump: {jump}; want < {num_steps}"):
            plan_moves(num_steps, resample, jump)
        return
    moves = plan_moves(num_steps, resample, jump)
    assert moves[0][0] == 0
    assert moves[-1] == (num_steps - 1, num_steps)
    assert all(a[1] == b[0] for a, b in pairwise(moves))
    stretches = (num_steps - 1) // jump
    steps = [m for m in moves if m[1] > m[0]]
    assert all(to == stop + 1 for stop, to in steps)
    assert len(steps) == num_steps + stretches * jump * (resample - 1)
    for stop in range(num_steps - 1 - stretches * jump, num_steps - 1):
        assert steps.count((stop, stop + 1)) == resample
    assert all(stop - to == jump for stop, to in moves if to < stop)


def test_masks_may_differ_from_sample_to_sample() -> None:
    """A forward and a backward window share a batch: one knows its first slice, one its last."""
    mask = torch.tensor([[True, False, False], [False, False, True]])[:, :, None]
    x_known = torch.where(mask, torch.tensor([[[2.0]], [[-3.0]]]), torch.nan)
    noise = NoiseStream(0, [0, 0], 1, [5, 9], (3, 4))
    start, overlap = noise(0, "init"), KnownSlices(x_known, mask, 2, 1)
    timesteps = select_timesteps(1000, 4)
    kw: dict[str, Any] = {"noise": noise, "prediction": "x0", "overlap": overlap}
    x_0 = ddim(lambda x, _: torch.zeros_like(x), start, cosine(), timesteps, eta=1.0, **kw)
    assert x_0[0].tolist() == [[2.0] * 4, [0.0] * 4, [0.0] * 4]
    assert x_0[1].tolist() == [[0.0] * 4, [0.0] * 4, [-3.0] * 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(2)}, "mask: torch.float32; want torch.bool"),
        ({"resample": 0}, "resample: 0; want >= 1"),
        ({"jump": 0}, "jump: 0; want >= 1"),
        ({"known_noise": "none"}, "known_noise: 'none'; want 'correct' or 'official'"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    good = {"x_0": torch.zeros(2), "mask": torch.ones(2, dtype=torch.bool)}
    with pytest.raises(MedpairError, match=message):
        KnownSlices(**{**good, **change})
