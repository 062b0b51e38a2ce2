"""The sampler tail: every move of every sampler against the reference and the samplers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.fused import FusedWalk, fused_sample
from common.diffusion.guidance import classifier_free
from common.diffusion.overlap import KnownSlices
from common.diffusion.rng import NoiseStream, philox4x32
from common.diffusion.samplers import SAMPLERS, sample
from common.diffusion.schedules import cosine, select_flow_timesteps, select_timesteps
from common.errors import MedpairError
from common.kernels import Known, TailRow, TailTable, reference, sampler_tail

SHAPE = (4, 3, 5, 3)  # S slices, C channels, height, width: 180 elements, then a ragged end
SAMPLED: list[tuple[str, dict[str, Any]]] = [
    ("ddpm", {}),
    ("ddim", {"eta": 0.0}),
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("dpm_solver_pp_2m", {}),
    ("rectified_flow", {}),
]
OVERLAPS = [None, (1, 1, "correct"), (2, 2, "correct"), (2, 2, "official")]
SCALES: list[dict[str, float]] = [{}, {"a": 2.0}, {"a": 2.0, "b": 1.5}]
MATRIX = [
    (name, kw, prediction, overlap, clip, scales)
    for (name, kw), overlap, clip, scales in itertools.product(
        SAMPLED, OVERLAPS, (None, (-1.0, 1.0)), SCALES
    )
    for prediction in (("flow", "x0") if name == "rectified_flow" else ("eps", "v", "x0"))
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


MIX = draw(3, 3, seed=3) * 0.3
CONDITIONS = {"a": draw(2, *SHAPE, seed=1), "b": draw(2, *SHAPE, seed=2)}
MASK = torch.tensor([[True, False, False, True], [False, False, True, True]])[
    :, :, None, None, None
]


def network(x: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    mixed = torch.einsum("bschw,dc->bsdhw", torch.tanh(x + a), MIX.to(x.device))
    return mixed + 0.1 * b + t[:, None, None, None, None] * 1e-4


def arguments(
    case: tuple[Any, ...], device: torch.device | str = "cpu"
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of `sample` for a row of MATRIX."""
    name, kw, prediction, overlap, clip, scales = case
    cond = {key: value.to(device) for key, value in CONDITIONS.items()}
    null = {key: torch.zeros((), device=device) for key in cond}
    noise = NoiseStream(2**63 + 5, [3, 2**32 - 1], 4, [7, 8], SHAPE, device)
    known = None
    if overlap is not None:
        known = KnownSlices(draw(2, *SHAPE, seed=4).to(device), MASK.to(device), *overlap)
    select = select_flow_timesteps if name == "rectified_flow" else select_timesteps
    place = [
        name, classifier_free(network, cond, null, scales), noise(0, "init"), cosine(),
        select(1000, 5),
    ]  # fmt: skip
    words = {"noise": noise, "prediction": prediction, "overlap": known, "clip": clip}
    return place, words | kw


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.cpu() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("case", MATRIX[::5], ids=str)
def test_rows_lead_where_the_sampler_leads(case: tuple[Any, ...]) -> None:
    place, words = arguments(case)
    wanted = SAMPLERS[case[0]](*place[1:], **words)
    assert difference(fused_sample(*place, **words), wanted) < 1e-5


@pytest.mark.parametrize("case", MATRIX[::53], ids=str)
def test_the_kernel_leads_there_too(device: torch.device, case: tuple[Any, ...]) -> None:
    place, words = arguments(case, device)
    plain, others = arguments(case)
    assert difference(sample(*place, **words), SAMPLERS[case[0]](*plain[1:], **others)) < 1e-5


@pytest.mark.parametrize("case", MATRIX[3::210], ids=str)
def test_a_row_number_on_the_device(device: torch.device, case: tuple[Any, ...]) -> None:
    """Nothing but tensors tells the kernel where it is, so a CUDA graph can be replayed."""
    place, words = arguments(case, device)
    name, denoiser, x, schedule, timesteps = place
    walk = FusedWalk(name, schedule, timesteps, **words)
    wanted, number = fused_sample(*place, **words), torch.zeros(1, dtype=torch.int32, device=device)
    x = walk.start(x)
    for stop, to in walk.moves:
        found = denoiser.passes(x, walk.time(stop, 2)) if to > stop else ()
        x = walk.move(x, number, *found)
        number += 1
    assert torch.equal(x, wanted)


def test_on_step_sees_every_state(device: torch.device) -> None:
    place, words = arguments(MATRIX[0], device)
    seen: list[tuple[int, int, Tensor]] = []
    final = sample(*place, **words, on_step=lambda *of: seen.append(of))
    assert [(move, t) for move, t, _ in seen] == [(0, 799), (1, 599), (2, 399), (3, 199), (4, -1)]
    assert torch.equal(seen[-1][2], final)
    assert not torch.equal(seen[0][2], seen[1][2])  # a state stays as it was shown


def test_known_slices_end_clean(device: torch.device) -> None:
    case = ("ddim", {"eta": 1.0}, "v", (2, 2, "correct"), None, {"a": 2.0})
    place, words = arguments(case, device)
    final, known = sample(*place, **words), words["overlap"]
    mask = known.mask.expand_as(final)
    assert torch.equal(final[mask], known.x_0[mask])


@pytest.mark.parametrize("count", [1, 3, 5, 1021, 1029])
def test_noise_is_that_of_the_stream(device: torch.device, count: int) -> None:
    noise = NoiseStream(2**64 - 3, [0, 2**32 - 1], 255, [2**24 - 1, 5], (count,), device)
    table = TailTable.pack([TailRow(std=1.0, step_word=(2**24 - 1) << 8)], False, device)
    x = torch.zeros(2, count, device=device)
    found = sampler_tail(x, table, 0, keys_B4=noise.keys_B4).cpu()
    wanted = reference.normals(noise.keys_B4.cpu(), (2**24 - 1) << 8, count).float()
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_words_are_those_of_philox_bit_for_bit(device: torch.device) -> None:
    from tests.common.kernels import philox_words

    words = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 0x243F6A88])
    counter = torch.stack(torch.meshgrid(words, words, words, indexing="ij"), -1).flatten(0, 2)
    key = (0xA4093822, 0xFFFFFFFF)
    for a, b, c in counter[::13].tolist():
        found = philox_words.words((a, b, c), 8, key, device)
        every = torch.tensor([[a, b, c, d] for d in range(8)])
        assert torch.equal(found.cpu(), philox4x32(every, key))


def row(**fields: float) -> TailRow:
    made = TailRow(x0_x=0.5, x0_out=-0.5, eps_x=0.1, eps_out=0.2, by_x=0.3, by_x0=0.4, by_eps=0.5)
    return made._replace(**fields)  # type: ignore[arg-type]


LAYOUTS = {
    "contiguous": lambda t: t,
    "slices as channels": lambda t: (
        t.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, t.shape[1:3])
    ),
    "turned": lambda t: t.transpose(1, 4).contiguous().transpose(1, 4),
    "gaps": lambda t: torch.nn.functional.pad(t, (0, 2))[..., :-2],
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize(
    ("passes", "dtype"),
    [(1, torch.float32), (2, torch.bfloat16), (3, torch.float16), (4, torch.float32)],
)
def test_outputs_of_any_layout(
    device: torch.device, layout: str, dtype: torch.dtype, passes: int
) -> None:
    x, outputs = draw(2, *SHAPE), draw(2 * passes, *SHAPE, seed=1).to(dtype)
    known = Known(LAYOUTS[layout](draw(2, *SHAPE, seed=2)), MASK)
    weights = [1.5, -0.25, 2.0, 0.75][:passes]
    wanted = reference.sampler_tail(
        x, TailTable.pack([row()], False), 0, outputs, weights, known=known
    )
    found = sampler_tail(
        x.to(device),
        TailTable.pack([row()], False, device),
        0,
        LAYOUTS[layout](outputs).to(device),
        weights,
        known=Known(known.x_0.to(device), MASK.to(device)),
    )
    torch.testing.assert_close(found.cpu(), wanted, atol=2e-6, rtol=2e-6)


def test_more_axes_than_the_kernel_has_are_copied(device: torch.device) -> None:
    shape = (2, 2, 3, 2, 3, 2)
    x, outputs = draw(*shape), draw(*shape, seed=1)
    turned = outputs.permute(5, 4, 3, 2, 1, 0).contiguous().permute(5, 4, 3, 2, 1, 0).to(device)
    mask = draw(2, 1, 3, 1, 3, 1, seed=2) > 0
    known = Known(draw(*shape, seed=3), mask)
    wanted = reference.sampler_tail(x, TailTable.pack([row()], False), 0, outputs, known=known)
    found = sampler_tail(
        x.to(device), TailTable.pack([row()], False, device), 0, turned,
        known=Known(known.x_0.to(device), mask.to(device)),
    )  # fmt: skip
    torch.testing.assert_close(found.cpu(), wanted, atol=2e-6, rtol=2e-6)


def test_the_last_x_0_is_read_and_written_only_where_it_counts(device: torch.device) -> None:
    x, outputs = draw(2, 7).to(device), draw(2, 7, seed=1).to(device)
    table = TailTable.pack([row(), row(by_last=2.0)], False, device)
    last = torch.full((2, 7), float("nan"), device=device)
    first = sampler_tail(x, table, 0, outputs, last=last)
    assert torch.equal(first, sampler_tail(x, table, 0, outputs))
    kept = last.clone()
    torch.testing.assert_close(kept, 0.5 * x - 0.5 * outputs)
    second = sampler_tail(x, table, 1, outputs, last=last)
    torch.testing.assert_close(second, first + 2 * kept, atol=1e-6, rtol=1e-6)


def test_clipping_hides_no_number_that_is_none(device: torch.device) -> None:
    x, outputs = torch.zeros(1, 3, device=device), torch.tensor([[float("nan"), 9.0, -9.0]])
    table = TailTable.pack([TailRow(x0_out=1.0, by_x0=1.0, clip_low=-1, clip_high=2)], True, device)
    found = sampler_tail(x, table, 0, outputs.to(device)).cpu()
    assert found[0, 0].isnan()
    assert found[0, 1:].tolist() == [2.0, -1.0]


def test_outputs_of_another_shape_are_refused() -> None:
    x, table = draw(2, 4), TailTable.pack([row()], False)
    with pytest.raises(MedpairError, match=r"shape \(2, 8\); want \(2, 4\), 1 times the state"):
        sampler_tail(x, table, 0, draw(2, 8))


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(MedpairError, match="eps_x: inf in move 1; want a finite weight"):
        TailTable.pack([TailRow(), TailRow(eps_x=float("inf"))], False)


def test_every_refusal_of_a_sampler_is_one_of_its_rows() -> None:
    place, words = arguments(MATRIX[0])
    for name, change, says in (
        ("ddim", {"eta": 9.0}, "eta: 9.0"),
        ("rectified_flow", {"prediction": "v"}, "prediction: 'v'"),
        ("ddpm", {"overlap": KnownSlices(MASK.float(), MASK, 2, 9)}, "jump: 9"),
    ):
        with pytest.raises(MedpairError, match=says):
            fused_sample(name, *place[1:], **words | change)
