import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.diffusion.schedules import (
    FlowSchedule,
    NoiseSchedule,
    add_noise,
    build_schedule,
    cosine,
    linear,
    rescale_zero_terminal_snr,
    scaled_linear,
    select_flow_timesteps,
    select_timesteps,
    to_x0_eps,
    training_target,
)
from common.errors import MedpairError

F64 = torch.float64
NAMES = ["linear", "scaled_linear", "cosine"]


def test_linear_is_the_product_of_its_betas() -> None:
    expected = 1.0
    for i in range(10):
        expected *= 1 - (0.1 + 0.3 * i / 9)
    assert linear(10, 0.1, 0.4).alpha_bar[-1].item() == pytest.approx(expected, rel=1e-12)


def test_scaled_linear_is_linear_in_the_root_of_beta() -> None:
    abar = torch.cat([torch.ones(1, dtype=F64), scaled_linear(50, 0.01, 0.09).alpha_bar])
    root = (1 - abar[1:] / abar[:-1]).sqrt()
    assert torch.allclose(root.diff(), torch.full((49,), 0.2 / 49, dtype=F64), atol=1e-12)
    assert root[0].item() == pytest.approx(0.1)


def test_cosine_follows_its_formula_until_the_betas_are_capped() -> None:
    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    abar = cosine(1000).alpha_bar
    for t in (0, 10, 499, 990):
        assert abar[t].item() == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-9)
    beta = 1 - abar[1:] / abar[:-1]
    assert beta.max().item() == pytest.approx(0.999)


@pytest.mark.parametrize("name", NAMES)
def test_amplitudes_keep_the_variance_and_lose_signal(name: str) -> None:
    schedule = build_schedule(name, 200)
    alpha, sigma = schedule.alpha_sigma(torch.arange(-1, 200))
    assert alpha.dtype == F64
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(201, dtype=F64), atol=1e-14)
    assert bool((alpha.diff() < 0).all())
    assert schedule.alpha_sigma(-1) == (1.0, 0.0)
    assert schedule.alpha_sigma(57) == (alpha[58].item(), sigma[58].item())


@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_ends_without_signal_and_keeps_the_start(name: str) -> None:
    plain, rescaled = build_schedule(name), build_schedule(name, zero_terminal_snr=True)
    assert rescaled.alpha_sigma(999) == (0.0, 1.0)
    assert rescaled.alpha_sigma(0)[0] == pytest.approx(plain.alpha_sigma(0)[0], rel=1e-12)
    # alpha is moved by an affine map, so second differences scale by one factor
    before, after = plain.alpha_bar.sqrt().diff(n=2), rescaled.alpha_bar.sqrt().diff(n=2)
    scale = (after[500] / before[500]).item()
    assert torch.allclose(after, scale * before, atol=1e-12)
    assert rescale_zero_terminal_snr(rescaled).alpha_sigma(400) == pytest.approx(
        rescaled.alpha_sigma(400)
    )


def test_shapes_of_t_are_kept_and_wrong_t_is_refused() -> None:
    schedule = linear(100)
    assert schedule.alpha_sigma(torch.zeros(2, 3, dtype=torch.int64))[0].shape == (2, 3)
    for t in (-2, 100):
        with pytest.raises(MedpairError, match=f"t: {t}; want -1..99"):
            schedule.alpha_sigma(t)
        with pytest.raises((IndexError, RuntimeError)):
            schedule.alpha_sigma(torch.tensor([t]))
    with pytest.raises(MedpairError, match=r"t: 101; want 0\.\.100"):
        FlowSchedule(100).alpha_sigma(101)


@pytest.mark.parametrize(
    ("abar", "message"),
    [([0.9, 0.95], "rises"), ([0.9, 1.2], "in \\[0, 1\\]"), ([[0.9, 0.8]], "shape \\(1, 2\\)")],
)
def test_a_wrong_table_is_refused(abar: list[float], message: str) -> None:
    with pytest.raises(MedpairError, match=message):
        NoiseSchedule(torch.tensor(abar))


def test_flow_goes_straight_from_clean_to_noise() -> None:
    flow = FlowSchedule(1000)
    assert flow.alpha_sigma(0) == (1.0, 0.0)
    assert flow.alpha_sigma(1000) == (0.0, 1.0)
    alpha, sigma = flow.alpha_sigma(torch.tensor([250.5]))  # training draws fractions
    assert alpha.item() == pytest.approx(0.7495)
    assert sigma.item() == pytest.approx(0.2505)


def test_add_noise_has_the_promised_mean_and_std() -> None:
    schedule, generator = cosine(), torch.Generator().manual_seed(0)
    x_0, eps = torch.full((3, 50_000), 2.0), torch.randn(3, 50_000, generator=generator)
    t = torch.tensor([0, 400, 999])
    x_t = add_noise(schedule, x_0, eps, t)
    alpha, sigma = schedule.alpha_sigma(t)
    assert x_t.dtype == torch.float32
    assert torch.allclose(x_t.mean(1).double(), 2 * alpha, atol=0.02)
    assert torch.allclose(x_t.std(1).double(), sigma, rtol=0.01)


@given(
    st.sampled_from(["eps", "x0", "v", "flow"]),
    st.sampled_from(NAMES),
    st.integers(0, 899),
    st.integers(0, 2**31),
)
def test_a_perfect_output_gives_back_clean_data_and_noise(
    prediction: str, name: str, t: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 2, 3, 4, dtype=F64, generator=generator)
    schedule, batch_t = build_schedule(name), torch.full((2,), t)
    x_t = add_noise(schedule, x_0, eps, batch_t)
    output = training_target(schedule, x_0, eps, batch_t, prediction)  # type: ignore[arg-type]
    alpha, sigma = schedule.alpha_sigma(t)
    found = to_x0_eps(output, x_t, alpha, sigma, prediction)  # type: ignore[arg-type]
    assert torch.allclose(found[0], x_0, atol=1e-9)
    assert torch.allclose(found[1], eps, atol=1e-9)


def test_v_still_tells_the_data_where_there_is_no_signal_and_eps_is_refused() -> None:
    schedule, t = build_schedule("linear", zero_terminal_snr=True), torch.tensor([999])
    x_0, eps = torch.tensor([[0.3, -0.8]]), torch.tensor([[1.1, 0.2]])
    x_t = add_noise(schedule, x_0, eps, t)
    output = training_target(schedule, x_0, eps, t, "v")
    assert torch.equal(to_x0_eps(output, x_t, 0.0, 1.0, "v")[0], x_0)
    with pytest.raises(MedpairError, match="without signal; want 'v'"):
        to_x0_eps(eps, x_t, 0.0, 1.0, "eps")


def test_an_unknown_prediction_is_refused() -> None:
    x, t = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(MedpairError, match="'noise'; want 'eps'"):
        training_target(cosine(), x, x, t, "noise")  # type: ignore[arg-type]
    with pytest.raises(MedpairError, match="'noise'; want 'eps'"):
        to_x0_eps(x, x, 0.5, 0.5, "noise")  # type: ignore[arg-type]


@given(st.integers(1, 1200), st.data())
def test_trailing_timesteps_fall_evenly_from_the_noisiest(T: int, data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(1, T))
    timesteps = select_timesteps(T, num_steps)
    assert len(timesteps) == num_steps
    assert timesteps[0] == T - 1
    gaps = [a - b for a, b in zip(timesteps, (*timesteps[1:], -1), strict=True)]
    assert min(gaps) >= 1  # the gap to the clean end counts too
    assert max(gaps) - min(gaps) <= 1
    assert select_flow_timesteps(T, num_steps) == tuple(t + 1 for t in timesteps)


def test_published_examples_of_both_spacings() -> None:
    assert select_timesteps(1000, 10) == (999, 899, 799, 699, 599, 499, 399, 299, 199, 99)
    assert select_timesteps(1000, 10, "leading") == (900, 800, 700, 600, 500, 400, 300, 200, 100, 0)


@pytest.mark.parametrize("num_steps", [0, 101])
def test_impossible_numbers_of_steps_are_refused(num_steps: int) -> None:
    with pytest.raises(MedpairError, match=f"num_steps: {num_steps}; want 1..100"):
        select_timesteps(100, num_steps)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(MedpairError, match="'sigmoid'; want one of"):
        build_schedule("sigmoid")
    with pytest.raises(MedpairError, match="'karras'; want 'trailing'"):
        select_timesteps(10, 2, "karras")  # type: ignore[arg-type]
