"""V volumes, R rows of a batch, S slices per window, D slices, C channels, h, w latent size."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gem3d.sampler
from common.diffusion.lockstep import lockstep
from common.diffusion.samplers import sample
from common.diffusion.schedules import cosine
from common.errors import MedpairError
from common.metrics.consistency import seam_index
from gem3d.conditions import informed_maps
from gem3d.network import VolumeDenoiser
from gem3d.sampler import LatentSampler, decode_in_chunks

SCHEDULE = cosine(1000)
CHANNELS, SIZE = 2, (4, 6)


def make(**kw: Any) -> LatentSampler:
    usual: dict[str, Any] = {"prediction": "x0", "window": 6, "num_steps": 3, "precision": "fp32"}
    return LatentSampler(SCHEDULE, **(usual | kw))


def draw(
    sampler: LatentSampler, network: nn.Module, depth: int, index: list[int], **kw: Any
) -> Any:
    """Sample volumes from masks whose only channel is the slice's number, 1 more than from 0."""
    count, size = len(index), kw.pop("size", SIZE)
    mask = torch.arange(1.0, depth + 1)[None, :, None, None, None].expand(count, -1, 1, *size)
    generator = torch.Generator().manual_seed(5)
    latent = kw.pop("latent", torch.randn(count, CHANNELS, *size, generator=generator))
    usual: dict[str, Any] = {"volumes": range(count), "seed": 3, "depth": depth}
    return sampler(network, mask, informed_maps(latent), index, **(usual | kw))


class Teller(nn.Module):
    """Estimate each slice as a function of its conditions and remember what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, ...]] = []

    def forward(self, x: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        self.asked.append((x, *conditions))
        return self.estimate(x, *conditions)

    def estimate(self, x: Tensor, mask: Tensor, *_: Tensor) -> Tensor:
        """The number that the mask bears: where a slice lands, it shows what it was made for."""
        return mask.expand_as(x)


class Correlated(nn.Module):
    """The posterior mean where slices i and j of a volume correlate as rho^|i - j|.

    Exact for x_t of a window and the informed slice, if any, which it takes for a slice of the
    volume at its offset, seen with an error of standard deviation tau.
    """

    def __init__(self, rho: float = 0.9, tau: float = 0.0) -> None:
        super().__init__()
        self.rho, self.tau = rho, tau
        self.maps: dict[Any, Tensor] = {}

    def forward(self, x: Tensor, t: Tensor, _: Tensor, informed: Tensor, *rest: Tensor) -> Tensor:
        rows = []
        for x_SChw, informed_Ehw, offset, time in zip(x, informed, rest[0], t, strict=True):
            at = round(-float(offset[0])) if informed_Ehw[-1].any() else None
            seen = x_SChw if at is None else torch.cat([x_SChw, informed_Ehw[None, :-1]])
            key = (int(time), at, len(x_SChw))
            if key not in self.maps:
                self.maps[key] = self._map(*key)
            rows.append((self.maps[key] @ seen.flatten(1)).view_as(x_SChw))
        return torch.stack(rows)

    def _map(self, t: int, at: int | None, slices: int) -> Tensor:
        alpha, sigma = SCHEDULE.alpha_sigma(t)
        seen = [*range(slices), *([] if at is None else [at])]
        place = torch.tensor(seen, dtype=torch.float64)
        signal = torch.tensor([alpha] * slices + [1.0] * (len(seen) - slices)).double()
        noise = torch.tensor([sigma**2] * slices + [self.tau**2] * (len(seen) - slices)).double()
        prior = self.rho ** (place[:, None] - place).abs()
        cov = signal[:, None] * prior * signal + torch.diag(noise + 1e-9)
        gain: Tensor = torch.linalg.solve(cov, signal[:, None] * prior[:, :slices])
        return gain.T.float()


def small_network(**kw: Any) -> VolumeDenoiser:
    """A real network with random weights everywhere, the zero-initialised layers too."""
    network = VolumeDenoiser(CHANNELS, 1, channels=[8, 16], embedding=16, **kw)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network.eval()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, for comparisons of bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- cost and places


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_network_calls_are_rounds_times_steps(scale: float) -> None:
    """Z = 138, n = 16, h = 1 from the middle: 6 rounds; the passes of guidance are one batch."""
    network = Teller()
    sampler = make(window=16, guidance_mask=scale, guidance_informed=scale + 1)
    assert len(sampler.plan(138, 69)) == 6
    draw(sampler, network, 138, [69, 69])
    assert len(network.asked) == 6 * sampler.num_steps


@settings(max_examples=40)
@given(data=st.data())
def test_every_slice_is_made_at_its_place(data: st.DataObject) -> None:
    window = data.draw(st.integers(2, 7))
    depth = data.draw(st.integers(1, 24))
    starts = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=3))
    sampler = make(
        window=window,
        overlap=data.draw(st.integers(1, window - 1)),
        num_steps=1,
        overlapped_inpainting=data.draw(st.booleans()),
        informed=data.draw(st.booleans()),
    )
    latent = draw(sampler, Teller(), depth, starts)
    number = torch.arange(1.0, depth + 1)[None, :, None, None, None]
    assert latent.shape == (len(starts), depth, CHANNELS, *SIZE)
    assert torch.equal(latent, number.expand_as(latent))


def test_the_released_plan_leaves_slices_empty_and_puts_copies_elsewhere() -> None:
    latent = draw(make(window=16, tail="official"), Teller(), 100, [31])[0, :, 0, 0, 0]
    assert latent[0] == 0  # 31 mod 15 = 1
    assert latent[84] == 92  # the last window begins at 84 with a copy of slice 91
    right = latent == torch.arange(1.0, 101)
    assert right.sum() == 98


@pytest.mark.parametrize("overlapped", [True, False])
def test_windows_after_the_first_are_informed_by_the_slice_they_continue(overlapped: bool) -> None:
    network, sampler = Teller(), make(num_steps=1, overlapped_inpainting=overlapped)
    truth = torch.full((1, CHANNELS, *SIZE), -7.0)
    draw(sampler, network, 21, [9], latent=truth)
    (_, mask, informed, offset, position), *later = network.asked
    assert torch.equal(informed[0, :-1], truth[0])
    assert torch.equal(offset[0], torch.arange(6.0))
    for _, mask, informed, offset, position in later:
        for row in range(2):
            number = mask[row, :, 0, 0, 0]
            if not number.any():
                continue  # an empty row
            torch.testing.assert_close(position[row], (number - 1) / 21)
            source = informed[row, 0, 0, 0]  # shows the slice it was made for
            assert torch.equal(offset[row], number - source)
            joint = max if row == 0 else min  # forward, backward
            known = [n for n in number.tolist() if (n <= source if row == 0 else n >= source)]
            assert not known or joint(known) == source
            assert torch.equal(informed[row, -1], torch.ones(SIZE))
            assert bool(known) or not overlapped


def test_a_short_volume_is_padded_with_its_last_mask_and_cropped() -> None:
    network = Teller()
    latent = draw(make(num_steps=1), network, 4, [2])
    _, mask, _, offset, position = network.asked[0]
    assert mask[0, :, 0, 0, 0].tolist() == [1, 2, 3, 4, 4, 4]
    assert offset[0].tolist() == [-2, -1, 0, 1, 1, 1]  # of the slice shown, as in training
    assert position[0].tolist() == [0, 0.25, 0.5, 0.75, 0.75, 0.75]
    assert latent[0, :, 0, 0, 0].tolist() == [1, 2, 3, 4]


# ---- what is known


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp_2m", "ddpm"])
@pytest.mark.parametrize("known_noise", ["correct", "official"])
def test_known_slices_end_as_the_earlier_window_wrote_them(
    name: str, known_noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Tensor] = []

    def spy(*args: Any, **kw: Any) -> Tensor:
        ends.append(sample(*args, **kw))
        return ends[-1]

    monkeypatch.setattr(gem3d.sampler, "sample", spy)
    sampler = make(sampler=name, overlap=2, known_noise=known_noise)
    latent = draw(sampler, Correlated(), 15, [4, 0])
    plans = [sampler.plan(15, 4), sampler.plan(15, 0)]
    errors = [
        end[p.row, p.window.local(p.window.known)]
        - latent[p.slot, p.window.known.start : p.window.known.stop]
        for batch, end in zip(lockstep(plans), ends, strict=True)
        for p in batch.windows
    ]
    error = torch.cat(errors)
    assert len(error) >= 2 * (len(plans[0]) + len(plans[1]) - 2)
    if known_noise == "correct":
        assert not error.any()
    else:  # the released code stops at the first level of the schedule, not at the clean end
        assert float(error.std()) == pytest.approx(SCHEDULE.alpha_sigma(0)[1], rel=0.1)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp_2m", "ddpm"])
def test_context_and_true_slices_are_kept_exactly(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    kept = torch.randn(2, 13, CHANNELS, *SIZE, generator=generator)
    where = torch.rand(2, 13, 1, *SIZE, generator=generator) < 0.3
    index, starts = [12, 5], [12, 3]  # a start window that is clamped, one with a slice inside
    truth = torch.stack([kept[0, 12], kept[1, 5]])
    latent = draw(
        make(sampler=name, resample=2),
        Correlated(tau=0.5),
        13,
        index,
        starts=starts,
        latent=truth,
        context=(kept, where),
        impose=[True, False],
    )
    keep = where.expand_as(latent)
    assert torch.equal(latent[keep], kept[keep])
    assert torch.equal(latent[0, 12], truth[0])
    made = ~keep
    made[0, 12] = False
    assert not torch.isclose(latent[made], kept[made], atol=1e-3).float().mean() > 0.01
    imposed = draw(
        make(), Correlated(tau=0.5), 13, index, starts=starts, latent=truth, impose=[True] * 2
    )
    assert torch.equal(imposed[0, 12], truth[0])
    assert torch.equal(imposed[1, 5], truth[1])


def test_a_network_with_a_known_channel_gets_known_slices_clean() -> None:
    class Marked(Teller):
        known_channel = True

    network = Marked()
    latent = draw(make(num_steps=2, overlap=2, guidance_mask=2.0), network, 12, [6])
    assert not network.asked[0][-1].any()
    for x, mask, *_, known in network.asked[2:]:
        number = mask.amax(0, keepdim=True).expand_as(mask)  # one of the two passes has no mask
        number = torch.where(mask.any(), number, mask)[:, :, 0, 0, 0].long()
        assert known.any()
        for row in range(len(x)):
            for place in known[row].nonzero()[:, 0].tolist():
                shown = number[row % 2 :: 2, place].amax() - 1
                assert torch.equal(x[row, place], latent[0, shown])


# ---- guidance and other modes


def test_each_condition_is_guided_by_its_own_scale() -> None:
    class Sum(Teller):
        def estimate(self, x: Tensor, mask: Tensor, *rest: Tensor) -> Tensor:
            present = rest[0][:, None, -1:]
            return (mask + 100 * present + mask * present).expand_as(x)

    sampler = make(num_steps=1, guidance_mask=2.0, guidance_informed=3.0)
    latent = draw(sampler, Sum(), 6, [0])[0, :, 0, 0, 0]
    number = torch.arange(1.0, 7)  # what the informed slice adds is taken with the mask seen
    torch.testing.assert_close(latent, 2 * number + 3 * (100 + number))


def test_eta_reaches_the_sampler() -> None:
    ddpm = draw(make(sampler="ddpm", num_steps=8), Correlated(), 6, [0])
    torch.testing.assert_close(draw(make(eta=1.0, num_steps=8), Correlated(), 6, [0]), ddpm)
    assert not torch.allclose(draw(make(num_steps=8), Correlated(), 6, [0]), ddpm, atol=0.1)


def test_make_a_volume_sees_no_informed_slice() -> None:
    network = small_network()
    sampler = make(prediction="v", informed=False, guidance_mask=2.0)
    one = draw(sampler, network, 14, [5])
    other = draw(sampler, network, 14, [5], latent=torch.zeros(1, CHANNELS, *SIZE))
    assert torch.equal(one, other)
    informed = make(prediction="v", guidance_mask=2.0)
    assert not torch.allclose(draw(informed, network, 14, [5]), one)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", [{}, {"eta": 1.0, "resample": 2}, {"tail": "official"}])
def test_a_volume_does_not_depend_on_its_neighbours(options: dict[str, Any]) -> None:
    """Same slot and number of slots, other neighbours with other starts: the same bits."""
    network, sampler = small_network(), make(prediction="v", **options)

    def run(volumes: list[int], starts: list[int], impose: list[bool]) -> Any:
        latent = torch.stack(
            [
                torch.randn(CHANNELS, *SIZE, generator=torch.Generator().manual_seed(v))
                for v in volumes
            ]
        )
        return draw(sampler, network, 14, starts, volumes=volumes, latent=latent, impose=impose)

    first = run([7, 1, 2], [4, 0, 8], [False] * 3)
    second = run([7, 100, 200], [4, 13, 2], [False, True, True])
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])
    alone = run([7], [4], [False])  # another batch shape: equal but for rounding
    torch.testing.assert_close(alone[0], first[0], atol=1e-3, rtol=1e-3)


def test_seed_number_and_start_make_a_volume() -> None:
    network, sampler = small_network(), make(prediction="v")

    def run(volume: int = 0, start: int = 2, seed: int = 0) -> Any:
        return draw(sampler, network, 9, [3], volumes=[volume], starts=[start], seed=seed)

    base = run()
    assert torch.equal(run(), base)
    for other in (run(volume=1), run(start=3), run(seed=1)):
        assert not torch.allclose(other, base)


# ---- joints, by a denoiser that is exact for one distribution


class Seams:
    """Statistics of volumes of slices that correlate by rho: (at joints, elsewhere)."""

    def __init__(self, network: Correlated, depth: int = 40, **kw: Any) -> None:
        sampler = make(window=8, num_steps=50, **kw)
        latent = draw(
            sampler, network, depth, [17] * 3, size=(16, 16), impose=[sampler.informed] * 3
        )
        ends = sampler.plan(depth, 17).joints
        slices = latent.transpose(0, 1).flatten(1)
        self.variance = float(slices.var())
        here = np.isin(np.arange(1, depth), ends)
        steps = np.array([np.corrcoef(slices[k - 1 : k + 1])[0, 1] for k in range(1, depth)])
        self.joint, self.elsewhere = steps[here].mean(), steps[~here].mean()
        images = latent.transpose(1, 2).flatten(0, 1).numpy()
        label = np.ones(images[0].shape, np.uint8)
        self.index = np.mean([float(seam_index(image, label, ends, 0)) for image in images])


@pytest.mark.parametrize(
    "options", [{}, {"eta": 1.0}, {"sampler": "ddpm"}, {"sampler": "dpm_solver_pp_2m"}]
)
def test_joints_do_not_show_where_the_informed_slice_is_followed(options: dict[str, Any]) -> None:
    found = Seams(Correlated(), **options)
    assert found.variance == pytest.approx(1, abs=0.1)
    assert found.elsewhere == pytest.approx(0.9, abs=0.015)
    assert found.joint >= found.elsewhere - 0.015
    assert found.index <= 1.05


def test_joints_of_the_released_plan_show() -> None:
    found = Seams(Correlated(), tail="official")
    assert found.elsewhere == pytest.approx(0.9, abs=0.015)
    assert found.joint < 0.8
    assert found.index > 1.3


def test_overlapped_inpainting_ties_windows_of_a_network_without_informed_slice() -> None:
    """Side by side they know nothing of each other; imposing helps, RePaint's jumps much more."""
    apart = Seams(Correlated(), informed=False, overlapped_inpainting=False)
    assert abs(apart.joint) < 0.05
    imposed = Seams(Correlated(), informed=False)
    assert imposed.joint > 0.4
    walked = Seams(Correlated(), informed=False, resample=5, jump=10)
    assert walked.joint > 0.75
    assert walked.index < imposed.index < apart.index


def test_overlapped_inpainting_helps_where_the_informed_slice_is_half_believed() -> None:
    apart = Seams(Correlated(tau=0.5), overlapped_inpainting=False)
    imposed = Seams(Correlated(tau=0.5))
    assert imposed.joint > apart.joint + 0.01
    assert imposed.index < apart.index


# ---- decoding and bad input


@pytest.mark.parametrize("chunk", [1, 3, 10, 99])
def test_decoding_in_chunks_is_decoding(chunk: int) -> None:
    sizes: list[int] = []

    def decode(z_NChw: Tensor) -> Tensor:
        sizes.append(len(z_NChw))
        return z_NChw.mean(1, keepdim=True).repeat_interleave(2, -1).repeat_interleave(2, -2)

    latent = torch.randn(2, 5, CHANNELS, *SIZE)
    image = decode_in_chunks(decode, latent, chunk)
    assert max(sizes) <= chunk
    assert torch.equal(image.flatten(0, 1), decode(latent.flatten(0, 1))[:, 0])
    assert image.shape == (2, 5, 8, 12)


def context(channels: int = CHANNELS, depth: int = 8) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, depth, channels, *SIZE), torch.zeros(1, depth, 1, *SIZE).bool()


@pytest.mark.parametrize(
    ("options", "request_", "message"),
    [
        ({"sampler": "euler"}, {}, "sampler: 'euler'; want one of ddim"),
        ({"sampler": "ddpm", "eta": 1.0}, {}, "eta: 1.0 with sampler 'ddpm'; want 0"),
        ({"informed": False, "guidance_informed": 2.0}, {}, "guidance_informed: 2.0 without"),
        ({"informed": False}, {"impose": [True]}, "impose: True without informed"),
        ({"overlap": 6}, {}, r"overlap: 6; want 1\.\.5"),
        ({"overlap": 2, "tail": "official"}, {}, "overlap: 2; want 1 with tail"),
        ({"num_steps": 0}, {}, "num_steps: 0; want 1"),
        ({"known_noise": "wrong"}, {}, "known_noise: 'wrong'; want"),
        ({}, {"starts": [8]}, r"start: 8; want 0\.\.7"),
        ({}, {"starts": [-1]}, r"start: -1; want 0\.\.7"),
        ({}, {"index": [9]}, r"start: 9; want 0\.\.7"),
        ({}, {"index": [7], "starts": [0]}, r"informed_index: 7; want 0\.\.5"),
        ({}, {"index": [3, 3]}, "informed_index: 2 values; want 1"),
        ({}, {"volumes": [3, 4]}, "volumes: 2 values; want 1"),
        ({}, {"depth": 9}, "mask: 8 slices; want 9"),
        ({}, {"latent": torch.zeros(1, 2, 4, 5)}, r"latent size \[4, 5\]; want \[4, 6\]"),
        ({}, {"latent": torch.zeros(2, 2, 4, 6)}, "informed_VEhw: 2 values; want 1"),
        ({}, {"latent": torch.zeros(1, 4, 4, 6)}, "4 latent channels; want 2"),
        ({}, {"context": context(channels=3)}, "context: shape"),
        ({}, {"context": context(depth=7)}, "context: shape"),
    ],
)
def test_wrong_requests_are_refused(
    options: dict[str, Any], request_: dict[str, Any], message: str
) -> None:
    index = request_.pop("index", [3])
    mask = torch.zeros(1, 8, 1, *SIZE)
    latent = request_.pop("latent", torch.zeros(1, CHANNELS, *SIZE))
    given: dict[str, Any] = {"volumes": [0], "seed": 0, "depth": 8} | request_
    with pytest.raises(MedpairError, match=message) as caught:
        make(**options)(small_network(), mask, informed_maps(latent), index, **given)
    assert "\n" not in str(caught.value)


def test_guidance_by_a_slice_that_the_network_never_sees_is_refused() -> None:
    network = small_network(informed_injection="none")
    with pytest.raises(MedpairError, match=r"guidance_informed: 2\.0 for a network"):
        draw(make(guidance_informed=2.0), network, 8, [0])


def test_a_chunk_of_no_slices_is_refused() -> None:
    with pytest.raises(MedpairError, match="chunk: 0; want >= 1"):
        decode_in_chunks(lambda z: z, torch.zeros(1, 1, 1, 2, 2), 0)


def test_latents_are_not_clipped() -> None:
    assert draw(make(num_steps=2), Teller(), 8, [0]).max() == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 16, "overlap": 16}, r"overlap: 16; want 1\.\.15"),
        (
            {"window": 16, "overlap": 2, "tail": "official"},
            "overlap: 2; want 1 with tail 'official'",
        ),
        ({"tail": "loose"}, "tail: 'loose'; want 'overlap' or 'official'"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_anything_is_made(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedpairError, match=message):
        make(**changes)
