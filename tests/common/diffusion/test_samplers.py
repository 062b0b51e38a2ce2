import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.rng import NoiseStream
from common.diffusion.samplers import SAMPLERS, ddim, ddpm, dpm_solver_pp_2m, sample
from common.diffusion.schedules import (
    FlowSchedule,
    NoiseSchedule,
    build_schedule,
    cosine,
    select_flow_timesteps,
    select_timesteps,
)
from common.errors import MedpairError

F64 = torch.float64
ALL: list[tuple[str, dict[str, float]]] = [
    ("ddpm", {}),
    ("ddim", {"eta": 0.0}),
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("dpm_solver_pp_2m", {}),
    ("rectified_flow", {}),
]


def timesteps_for(name: str, num_steps: int) -> tuple[int, ...]:
    select = select_flow_timesteps if name == "rectified_flow" else select_timesteps
    return select(1000, num_steps)


def exact_error(gaussian: Any, schedule: Any, name: str, num_steps: int, **kw: Any) -> float:
    """Largest error of the sampler's mean and covariance, relative to the largest variance."""
    law, timesteps = gaussian(5), timesteps_for(name, num_steps)
    prediction = kw.setdefault("prediction", "x0")
    network = law.denoiser(schedule, prediction)

    def run(x_T: Tensor, noise: Any) -> Tensor:
        return sample(name, network, x_T, schedule, timesteps, noise=noise, **kw)

    mean, cov = law.exact_moments(run)
    worst = max((mean - law.mean).abs().max(), (cov - law.cov).abs().max())
    return float(worst / law.cov.max())


@pytest.mark.parametrize(("name", "kw"), ALL)
def test_reproduces_mean_and_covariance_of_gaussian_data(
    gaussian: Any, schedule_for: Any, name: str, kw: dict[str, float]
) -> None:
    schedule = schedule_for(name)
    coarse = exact_error(gaussian, schedule, name, 50, **kw)
    fine = exact_error(gaussian, schedule, name, 200, **kw)
    assert fine < (0.001 if name == "dpm_solver_pp_2m" else 0.035)
    assert fine < coarse / 3  # it goes to zero: what is left is the step size, not a bias


@pytest.mark.parametrize(("name", "kw"), ALL)
def test_draws_of_the_noise_stream_have_mean_and_covariance_of_the_data(
    gaussian: Any, schedule_for: Any, name: str, kw: dict[str, float]
) -> None:
    count, law, schedule = 20_000, gaussian(4), schedule_for(name)
    noise = NoiseStream(1, range(count), 1, [0] * count, (4,))
    network, timesteps = law.denoiser(schedule), timesteps_for(name, 100)
    x_0 = sample(
        name, network, noise(0, "init"), schedule, timesteps, noise=noise, prediction="x0", **kw
    ).double()
    assert (x_0.mean(0) - law.mean).abs().max().item() < 4 * math.sqrt(0.5 / count)
    # 4 standard errors of a covariance, plus the known error of 100 steps (see the test above)
    assert (torch.cov(x_0.T) - law.cov).abs().max().item() < 4 * 0.5 * math.sqrt(2 / count) + 0.03


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_prediction_type_gives_the_same_samples(
    gaussian: Any, schedule_for: Any, name: str
) -> None:
    law, schedule, timesteps = gaussian(3), schedule_for(name), timesteps_for(name, 10)
    generator = torch.Generator().manual_seed(0)
    noises = [torch.randn(4, 3, dtype=F64, generator=generator) for _ in range(11)]

    def run(prediction: str) -> Tensor:
        network = law.denoiser(schedule, prediction)
        noise: Any = lambda move, purpose: noises[move]  # noqa: E731
        start, kw = noises[-1], {"noise": noise, "prediction": prediction}
        return sample(name, network, start, schedule, timesteps, **kw)

    others = ("flow",) if name == "rectified_flow" else ("eps", "v", "flow")
    for prediction in others:
        assert torch.allclose(run(prediction), run("x0"), atol=1e-9), prediction


def test_ddpm_is_ddim_at_eta_one_for_any_subset(gaussian: Any) -> None:
    schedule, timesteps, law = cosine(), (990, 700, 650, 200, 3), gaussian(3)
    noise = NoiseStream(3, range(4), 1, [0] * 4, (3,), dtype=F64)
    arguments = (law.denoiser(schedule), noise(0, "init"), schedule, timesteps)
    a = ddpm(*arguments, noise=noise, prediction="x0")
    b = ddim(*arguments, noise=noise, prediction="x0", eta=1.0)
    assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("gap", [1, 7, 300])
def test_ddpm_steps_by_bayes_rule_between_neighbours_of_the_subset(gap: int) -> None:
    """The posterior from the prior q(x_s|x_0) and the likelihood q(x_t|x_s), by precisions."""
    schedule, t = cosine(), 600
    (a_t, s_t), (a_s, s_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(t - gap)
    ratio, x_0, x_t = a_t / a_s, 0.7, -0.4
    likelihood = 1 / (s_t**2 - ratio**2 * s_s**2)
    precision = 1 / s_s**2 + ratio**2 * likelihood
    mean = (a_s * x_0 / s_s**2 + ratio * x_t * likelihood) / precision
    seen: list[float] = []
    for z in (0.0, 1.0):
        ddpm(
            lambda x, _: torch.full_like(x, x_0),
            torch.tensor([[x_t]], dtype=F64),
            schedule,
            (t, t - gap),
            noise=lambda *_, z=z: torch.full((1, 1), z, dtype=F64),  # type: ignore[misc]
            prediction="x0",
            on_step=lambda move, _, x: seen.append(x.item()) if move == 0 else None,
        )
    assert seen[0] == pytest.approx(mean, rel=1e-9)
    assert seen[1] - seen[0] == pytest.approx(precision**-0.5, rel=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("steps", [(600, 599), (600, 300)])
def test_a_learned_variance_lies_between_posterior_and_upper_bound(
    channels: int, steps: tuple[int, int]
) -> None:
    schedule, x_T = cosine(), torch.randn(2, channels, 3, 4, dtype=F64)
    (a_t, s_t), (a_s, s_s) = (schedule.alpha_sigma(t) for t in steps)
    beta = 1 - (a_t / a_s) ** 2

    def std(v: float | None) -> Tensor:
        """What one unit of noise adds in the first step."""
        logits = torch.full_like(x_T, math.nan if v is None else v)
        output = torch.cat([0.3 * x_T, logits], 1)[:, : channels * (1 if v is None else 2)]
        seen: list[Tensor] = []
        for z in (0.0, 1.0):
            ddpm(
                lambda x, _: output if x is x_T else torch.zeros_like(output),
                x_T,
                schedule,
                steps,
                noise=lambda *_, z=z: torch.full_like(x_T, z),  # type: ignore[misc]
                prediction="v",
                on_step=lambda move, _, x: seen.append(x) if move == 0 else None,
                learned_sigma=v is not None,
            )
        return seen[1] - seen[0]

    assert torch.allclose(std(1.0), torch.full_like(x_T, math.sqrt(beta)), rtol=1e-9)
    posterior = math.sqrt(beta) * s_s / s_t
    assert torch.allclose(std(-1.0), torch.full_like(x_T, posterior), rtol=1e-9)
    assert torch.allclose(std(-1.0), std(None), rtol=1e-9)
    assert torch.allclose(std(0.0) ** 2, std(1.0) * std(-1.0), rtol=1e-9)  # even in logarithms


@pytest.mark.parametrize("channels", [1, 3])
def test_the_best_variance_makes_a_few_steps_exact(channels: int) -> None:
    """For normal pixels q(x_s | x_t) is known; its variance is what a network learns to put out."""
    schedule, timesteps, data_std = cosine(), (999, 800, 500, 200, 0), 0.5
    below = dict(itertools.pairwise(timesteps)) | {0: -1}

    def network(x: Tensor, t: Tensor) -> Tensor:
        now = int(t[0])
        (a_t, s_t), (a_s, s_s) = (schedule.alpha_sigma(n) for n in (now, below[now]))
        gain = a_t * data_std**2 / (a_t**2 * data_std**2 + s_t**2)
        beta = 1 - (a_t / a_s) ** 2
        posterior = beta * max(s_s, 1e-9) ** 2 / s_t**2
        spread = (a_s * beta / s_t**2) ** 2 * data_std**2 * (1 - gain * a_t)
        share = math.log((posterior + spread) / posterior) / math.log(beta / posterior)
        return torch.cat([gain * x, torch.full_like(x, 2 * share - 1)], 1)

    def variance(learned: bool) -> float:
        noise = NoiseStream(0, range(2000), 1, [0] * 2000, (channels, 8), dtype=F64)
        half: Any = lambda x, t: network(x, t)[:, :channels]  # noqa: E731
        options: dict[str, Any] = {"noise": noise, "prediction": "x0", "learned_sigma": learned}
        start = noise(0, "init")
        return float(
            ddpm(network if learned else half, start, schedule, timesteps, **options).var()
        )

    assert variance(True) == pytest.approx(data_std**2, rel=0.05)
    assert variance(False) < 0.8 * data_std**2


def test_a_network_without_variance_is_named() -> None:
    x = torch.zeros(1, 3, 2)
    with pytest.raises(MedpairError, match="puts out 3 channels; want 6"):
        ddpm(lambda x, _: x, x, cosine(), (9,), noise=lambda *_: x, learned_sigma=True)


def solver_error(solver: Callable[..., Tensor], law: Any, stride: int) -> float:
    """Error against the exact probability flow, with steps even in log-SNR time."""
    half_log_snr = torch.linspace(3, -3, 257, dtype=F64)
    schedule = NoiseSchedule(torch.sigmoid(2 * half_log_snr))
    x_T = torch.eye(len(law.cov), dtype=F64)
    timesteps = tuple(range(256, -1, -stride))
    found = solver(
        law.denoiser(schedule), x_T, schedule, timesteps, noise=lambda *_: x_T, prediction="x0"
    )
    values, vectors = torch.linalg.eigh(law.cov)
    (a_T, s_T), (a_0, s_0) = schedule.alpha_sigma(256), schedule.alpha_sigma(0)
    growth = ((a_0**2 * values + s_0**2) / (a_T**2 * values + s_T**2)).sqrt()
    moved = (x_T - a_T * law.mean) @ vectors @ torch.diag(growth) @ vectors.T
    exact = law.denoise(moved + a_0 * law.mean, a_0, s_0)
    return float((found - exact).abs().max())


@pytest.mark.parametrize(("solver", "order"), [(ddim, 1), (dpm_solver_pp_2m, 2)])
def test_solvers_converge_with_their_order_in_log_snr_time(
    gaussian: Any, solver: Callable[..., Tensor], order: int
) -> None:
    errors = [solver_error(solver, gaussian(4), stride) for stride in (16, 8, 4, 2)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.15)
    assert min(orders) > order - 0.4


def test_rectified_flow_converges_with_order_one(gaussian: Any) -> None:
    errors = [
        exact_error(gaussian, FlowSchedule(1000), "rectified_flow", n) for n in (100, 200, 400)
    ]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(1, abs=0.1)


def test_one_flow_step_along_the_exact_velocity_is_exact() -> None:
    x_0, eps = torch.tensor([[0.3, -0.9]]), torch.tensor([[1.5, 0.2]])
    found = sample(
        "rectified_flow", lambda *_: x_0 - eps, eps, cosine(), (1000,), noise=lambda *_: eps
    )
    assert torch.allclose(found, x_0)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_solver_pp_2m"])
def test_zero_terminal_snr_starts_from_pure_noise(gaussian: Any, name: str) -> None:
    schedule = build_schedule("linear", zero_terminal_snr=True)
    error = exact_error(gaussian, schedule, name, 500, prediction="v")
    assert error < (0.002 if name == "dpm_solver_pp_2m" else 0.04)
    with pytest.raises(MedpairError, match="without signal"):
        exact_error(gaussian, schedule, name, 10, prediction="eps")


def test_leading_timesteps_miss_variance_that_trailing_ones_reproduce(gaussian: Any) -> None:
    def error(spacing: Any) -> float:
        law, schedule = gaussian(3), build_schedule("linear")
        timesteps = select_timesteps(1000, 10, spacing)
        run = lambda x_T, noise: dpm_solver_pp_2m(  # noqa: E731
            law.denoiser(schedule), x_T, schedule, timesteps, noise=noise, prediction="x0"
        )
        return float((law.exact_moments(run)[0] - law.mean).abs().max())

    assert error("trailing") < 0.3 * error("leading")


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_nothing_is_clipped_unless_asked(schedule_for: Any, name: str) -> None:
    schedule, timesteps = schedule_for(name), timesteps_for(name, 5)
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(2, 8, generator=generator)
    arguments = (name, lambda x, _: torch.full_like(x, 7.0), x_T, schedule, timesteps)
    kw: dict[str, Any] = {"noise": lambda *_: torch.zeros(2, 8), "prediction": "x0"}
    assert torch.allclose(sample(*arguments, **kw), torch.full((2, 8), 7.0), atol=1e-5)
    clipped = sample(*arguments, **kw, clip=(-1.0, 1.0))
    assert torch.allclose(clipped, torch.ones(2, 8), atol=1e-5)


def test_eps_follows_the_clipped_estimate() -> None:
    states: list[Tensor] = []
    x_T, schedule = torch.tensor([[0.5]], dtype=F64), cosine()
    (a_t, s_t), (a_s, s_s) = schedule.alpha_sigma(500), schedule.alpha_sigma(250)
    ddim(
        lambda x, _: torch.full_like(x, 9.0),
        x_T,
        schedule,
        (500, 250),
        noise=lambda *_: x_T,
        prediction="x0",
        clip=(-1.0, 1.0),
        on_step=lambda move, t, x: states.append(x),
    )
    assert states[0].item() == pytest.approx(a_s + s_s * (0.5 - a_t) / s_t)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_hooks_see_every_level_and_the_network_every_timestep(schedule_for: Any, name: str) -> None:
    timesteps, seen, called = timesteps_for(name, 4), [], []

    def network(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        assert t.dtype == torch.int64
        called.append(int(t[0]))
        return torch.zeros_like(x)

    x_0 = sample(
        name,
        network,
        torch.ones(2, 3),
        schedule_for(name),
        timesteps,
        noise=lambda *_: torch.zeros(2, 3),
        on_step=lambda move, t, x: seen.append((move, t)),
    )
    clean = 0 if name == "rectified_flow" else -1
    assert called == list(timesteps)
    assert seen == list(enumerate([*timesteps[1:], clean]))
    assert not x_0.requires_grad


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_an_autocast_network_loses_precision_only_inside_itself(
    schedule_for: Any, name: str
) -> None:
    def run(dtype: torch.dtype) -> Tensor:
        start = torch.tensor([[0.3, -1.7, 2.2]])
        arguments = (start, schedule_for(name), timesteps_for(name, 4))
        network = lambda x, _: torch.full_like(x, 0.75, dtype=dtype)  # noqa: E731
        return sample(name, network, *arguments, noise=lambda *_: start)

    assert torch.equal(run(torch.bfloat16), run(torch.float32))


def test_deterministic_samplers_draw_nothing_and_stochastic_ones_once_per_noisy_step(
    schedule_for: Any,
) -> None:
    for name, kw in ALL:
        asked: list[tuple[int, str]] = []

        def noise(move: int, purpose: str, asked: list[tuple[int, str]] = asked) -> Tensor:
            asked.append((move, purpose))
            return torch.zeros(1, 2)

        timesteps = timesteps_for(name, 4)
        start = torch.zeros(1, 2)
        sample(name, lambda x, _: x, start, schedule_for(name), timesteps, noise=noise, **kw)
        stochastic = name == "ddpm" or kw.get("eta", 0) > 0
        assert asked == ([(0, "step"), (1, "step"), (2, "step")] if stochastic else [])


def test_eta_above_one_is_right_as_far_as_the_next_level_has_room(gaussian: Any) -> None:
    assert exact_error(gaussian, build_schedule("linear"), "ddim", 1000, eta=1.2) < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": ()}, "timesteps: \\(\\); want strictly falling"),
        ({"timesteps": (10, 10)}, "timesteps: \\(10, 10\\); want strictly falling"),
        ({"timesteps": (10, -1)}, "timesteps: \\(10, -1\\); want strictly falling, above -1"),
        ({"timesteps": (1000, 3)}, "t: 1000; want -1..999"),
        ({"eta": -0.1}, "eta: -0.1; want 0..1"),
        ({"eta": 5.0}, "eta: 5.0; want 0..1"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1)
    arguments = {"timesteps": (900, 400), "noise": lambda *_: x, **change}
    with pytest.raises(MedpairError, match=message):
        ddim(lambda x, _: x, x, cosine(), **arguments)


def test_unknown_samplers_and_predictions_are_named() -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(MedpairError, match="sampler: 'euler'; want one of"):
        sample("euler")
    with pytest.raises(MedpairError, match="'v'; want 'flow'"):
        sample(
            "rectified_flow",
            lambda x, _: x,
            x,
            cosine(),
            (9,),
            noise=lambda *_: x,
            prediction="v",
        )
