from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.diffusion.guidance import classifier_free
from common.diffusion.samplers import ddim
from common.diffusion.schedules import cosine, select_timesteps
from common.errors import MedpairError


class Recorder:
    """A network that is linear in its conditions, with a term that couples them."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        self.seen.append(cond)
        assert len(t) == len(x_t)
        assert all(len(c) == len(x_t) for c in cond.values())
        return x_t + t[:, None] + torch.stack(list(cond.values())).sum(0) + cond["a"] * cond["b"]


B = 3
X, T = torch.randn(B, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 6, 7])
COND = {"a": torch.full((B, 2), 2.0), "b": torch.full((B, 2), 3.0)}
NULL = {"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}


def plain(**cond: Tensor) -> Tensor:
    return Recorder()(X, T, **cond)


@pytest.mark.parametrize(
    ("scales", "passes"),
    [
        ({}, 1),
        ({"a": 1.0}, 1),  # never the unconditional pass
        ({"a": 1.0, "b": 1.0}, 1),
        ({"a": 0.0}, 1),
        ({"a": 4.0}, 2),
        ({"a": 4.0, "b": 4.0}, 2),  # one scale for all: the half-conditioned pass cancels
        ({"a": 1.0, "b": 4.0}, 2),  # no pass without any condition
        ({"a": 2.0, "b": 4.0}, 3),
    ],
)
def test_only_the_passes_that_count_run_and_they_run_as_one_batch(
    scales: dict[str, float], passes: int
) -> None:
    network = Recorder()
    classifier_free(network, COND, NULL, scales)(X, T)
    assert network.batches == [passes * B]


@given(st.floats(-2, 9), st.floats(-2, 9))
def test_output_is_the_published_chain_of_differences(s_a: float, s_b: float) -> None:
    none = plain(a=NULL["a"].expand(B, 2), b=NULL["b"].expand(B, 2))
    only_a, both = plain(a=COND["a"], b=NULL["b"].expand(B, 2)), plain(**COND)
    expected = none + s_a * (only_a - none) + s_b * (both - only_a)
    guided = classifier_free(Recorder(), COND, NULL, {"a": s_a, "b": s_b})(X, T)
    assert torch.allclose(guided, expected, atol=1e-3)


def test_scale_one_is_conditional_and_scale_zero_unconditional_to_the_last_bit() -> None:
    one = classifier_free(Recorder(), COND, NULL, {"a": 1.0, "b": 1.0})(X, T)
    zero = classifier_free(Recorder(), COND, NULL, {"a": 0.0, "b": 0.0})(X, T)
    assert torch.equal(one, plain(**COND))
    assert torch.equal(zero, plain(a=NULL["a"].expand(B, 2), b=NULL["b"].expand(B, 2)))


def test_conditions_without_a_scale_are_never_dropped() -> None:
    network = Recorder()
    classifier_free(network, COND, {"a": NULL["a"]}, {"a": 3.0})(X, T)
    assert torch.equal(network.seen[0]["b"], torch.cat([COND["b"]] * 2))
    assert torch.equal(network.seen[0]["a"], torch.cat([NULL["a"].expand(B, 2), COND["a"]]))


def test_guidance_acts_only_inside_its_interval() -> None:
    network, schedule = Recorder(), cosine(100)
    denoiser = classifier_free(network, COND, NULL, {"a": 2.0, "b": 2.0}, interval=(40, 59))
    ddim(denoiser, X, schedule, select_timesteps(100, 10), noise=lambda *_: X, prediction="x0")
    # timesteps 99, 89, .., 9: only 59 and 49 lie inside
    assert network.batches == [B, B, B, B, 2 * B, 2 * B, B, B, B, B]


def test_any_kind_of_condition_is_batched() -> None:
    def network(x_t: Tensor, t: Tensor, label: Tensor, seg: Tensor) -> Tensor:
        assert label.dtype == torch.int64
        return x_t * label[:, None] + seg.mean((1, 2))[:, None]

    cond = {"label": torch.tensor([1, 2, 3]), "seg": torch.ones(B, 4, 4)}
    null = {"label": torch.tensor([0]), "seg": torch.zeros(1, 1, 1)}
    guided = classifier_free(network, cond, null, {"label": 2.0, "seg": 2.0})(X, T)
    assert torch.allclose(guided, 2 * (X * cond["label"][:, None] + 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classifier_free(Recorder(), COND, NULL, {"c": 2.0}), "cond: lacks \\['c'\\]"),
        (lambda: classifier_free(Recorder(), COND, {}, {"a": 2.0}), "null: lacks \\['a'\\]"),
        (lambda: classifier_free(Recorder(), COND, NULL, {}, (9, 3)), "interval: \\(9, 3\\)"),
    ],
)
def test_bad_input_is_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(MedpairError, match=message):
        build()
