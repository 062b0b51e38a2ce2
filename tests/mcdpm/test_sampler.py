from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import MedpairError
from mcdpm.network import MaskDenoiser
from mcdpm.sampler import MaskSampler

M = 6
DEPTHS = (1, 4, M, 7, 10, 15)  # below m, m, one new slice, clamped last windows


def generate(sampler: MaskSampler, network: nn.Module, depth: int, starts: list[int]) -> Tensor:
    return sampler(network, volumes=range(len(starts)), starts=starts, depth=depth, seed=3)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm_solver_pp_2m"])
@pytest.mark.parametrize("prediction", ["v", "eps", "x0", "logits"])
def test_a_perfect_denoiser_gives_its_mask(name: str, prediction: str, make: Any) -> None:
    """One-slice steps, growth to both ends, and three volumes with other starts side by side."""
    mask, diffusion = make.label(11), make.diffusion(prediction)
    oracle = make.oracle(mask, diffusion)
    scores = generate(make.sampler(diffusion, sampler=name), oracle, 11, [0, 4, 10])
    assert scores.shape == (3, 11, 6, 8, 6)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(
        scores, diffusion.codec.encode(mask).expand_as(scores), atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("code", ["one_hot", "scalar"])
def test_every_depth_is_made_from_every_start(depth: int, code: str, make: Any) -> None:
    mask, diffusion = make.label(depth), make.diffusion("v", code)
    starts = sorted({0, depth // 2, max(0, depth - M), depth - 1})
    scores = generate(
        make.sampler(diffusion, num_steps=2), make.oracle(mask, diffusion), depth, starts
    )
    assert scores.shape[:2] == (len(starts), depth)
    assert torch.equal(scores.argmax(2).byte(), mask.expand(len(starts), -1, -1, -1))


@settings(max_examples=25)
@given(data=st.data())
def test_windows_and_overlaps_of_any_size_fit(make: Any, data: st.DataObject) -> None:
    window = data.draw(st.integers(2, 7))
    overlap = data.draw(st.integers(1, window - 1))
    depth = data.draw(st.integers(1, 24))
    starts = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=3))
    mask, diffusion = make.label(depth), make.diffusion()
    sampler = make.sampler(diffusion, window=window, overlap=overlap, num_steps=1)
    oracle = make.oracle(mask, diffusion)
    scores = generate(sampler, oracle, depth, starts)
    assert torch.equal(scores.argmax(2).byte(), mask.expand(len(starts), -1, -1, -1))
    windows = torch.cat(oracle.asked[1:]) if len(oracle.asked) > 1 else torch.zeros(0)
    assert not oracle.asked[0].any()  # nothing is known in the start windows
    assert all(n == 0 or overlap <= n < window for n in windows.tolist())  # 0: an empty row


def test_known_slices_are_hard_labels_also_after_a_soft_result(make: Any) -> None:
    """Scores may be soft; what the next window gets is a label's clean code."""
    mask, diffusion = make.label(10), make.diffusion("x0")

    network = make.oracle(mask, diffusion, share=0.3)  # which asserts what it gets
    scores = generate(make.sampler(diffusion), network, 10, [2])
    assert scores.abs().max() < 0.31
    assert torch.equal(scores[0].argmax(1).byte(), mask)


def test_resampling_keeps_the_perfect_mask_and_costs_more_passes(make: Any) -> None:
    mask, diffusion = make.label(9), make.diffusion()
    counts = []
    for resample in (1, 3):
        oracle = make.oracle(mask, diffusion)
        sampler = make.sampler(diffusion, resample=resample, num_steps=4)
        scores = generate(sampler, oracle, 9, [3])
        assert torch.equal(scores[0].argmax(1).byte(), mask)
        counts.append(len(oracle.rows))
    assert counts[1] > 2 * counts[0]


class Recorder(nn.Module):
    """A real network that remembers the batches it saw."""

    def __init__(self, network: MaskDenoiser) -> None:
        super().__init__()
        self.network = network
        self.known: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, position: Tensor) -> Tensor:
        self.known.append(x[:, :, -1, 0, 0].bool())
        return self.network(x, t, position)  # type: ignore[no-any-return]


@pytest.mark.parametrize("prediction", ["v", "logits"])
def test_guidance_1_is_conditional_and_more_adds_one_unconditional_pass(
    prediction: str, make: Any
) -> None:
    diffusion, recorder = make.diffusion(prediction), Recorder(make.denoiser())
    plain = generate(make.sampler(diffusion), recorder, 12, [3, 5])
    assert [len(known) for known in recorder.known] == [2] * 3 + [4] * 3 * (
        len(recorder.known) // 3 - 1
    )
    one = generate(make.sampler(diffusion, guidance_scale=1.0), recorder, 12, [3, 5])
    assert torch.equal(one, plain)
    recorder.known.clear()
    guided = generate(make.sampler(diffusion, guidance_scale=2.0), recorder, 12, [3, 5])
    assert not torch.allclose(guided, plain)
    halves = [known.chunk(2) for known in recorder.known]
    assert all(len(known) in (4, 8) for known in recorder.known)
    seen = [sorted([bool(a.any()), bool(b.any())]) for a, b in halves[3:]]
    assert seen == [[False, True]] * len(seen)  # one half without any condition


@pytest.mark.usefixtures("one_thread")
def test_a_volume_does_not_depend_on_its_neighbours(make: Any) -> None:
    """Same slot and number of slots, other neighbours with other starts: the same bits."""
    network, sampler = make.denoiser(), make.sampler(make.diffusion())

    def run(volumes: list[int], starts: list[int]) -> Tensor:
        return sampler(network, volumes=volumes, starts=starts, depth=14, seed=3)

    first = run([7, 1, 2], [4, 0, 8])
    second = run([7, 100, 200], [4, 13, 2])
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])
    padded = run([7, 0, 0], [4, 0, 0])  # alone, with dummies in the other slots
    assert torch.equal(padded[0], first[0])
    alone = run([7], [4])  # another batch shape: equal but for rounding
    torch.testing.assert_close(alone[0], first[0], atol=1e-2, rtol=1e-2)


def test_seed_number_and_start_make_a_volume(make: Any) -> None:
    network, sampler = make.denoiser(), make.sampler(make.diffusion())

    def run(volume: int = 0, start: int = 2, seed: int = 0) -> Tensor:
        return sampler(network, volumes=[volume], starts=[start], depth=9, seed=seed)

    base = run()
    assert torch.equal(run(), base)
    for other in (run(volume=1), run(start=3), run(seed=1)):
        assert not torch.allclose(other, base)


def test_wrong_requests_are_refused(make: Any) -> None:
    network = make.denoiser()
    for wrong, message in (
        ({"sampler": "euler"}, r"sampler: 'euler'; want one of"),
        ({"num_steps": 0}, r"num_steps: 0; want 1"),
        ({"overlap": 6}, r"overlap: 6; want 1\.\.5"),
        ({"precision": "half"}, r"precision is 'half'"),
        ({"window": 5}, r"windows of 5 slices"),
    ):
        with pytest.raises(MedpairError, match=message):
            generate(make.sampler(make.diffusion(), **wrong), network, 8, [0])
    for depth, start, message in ((0, 0, "depth: 0"), (8, 8, "start: 8; want 0"), (8, -1, "start")):
        with pytest.raises(MedpairError, match=message):
            generate(make.sampler(make.diffusion()), network, depth, [start])
