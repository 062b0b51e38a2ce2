import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.diffusion.rng import PURPOSES, STAGES, NoiseStream, normal, philox4x32
from common.errors import MedpairError

ONES = 0xFFFFFFFF
# Random123 1.14, tests/kat_vectors, lines "philox4x32 10": counter, key, output
KNOWN_ANSWERS = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, (ONES, ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_published_known_answers(
    counter: list[int], key: tuple[int, int], output: list[int]
) -> None:
    found = philox4x32(torch.tensor([counter, counter]), key)
    assert found.tolist() == [output, output]


def philox_in_python(counter: list[int], key: tuple[int, int]) -> list[int]:
    """The published rounds on Python integers, which never wrap."""
    a, b, c, d = counter
    for i in range(10):
        k_0, k_1 = (key[0] + i * 0x9E3779B9) & ONES, (key[1] + i * 0xBB67AE85) & ONES
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k_0, right & ONES, (left >> 32) ^ d ^ k_1, left & ONES
    return [a, b, c, d]


WORD = st.integers(0, ONES)


@given(st.lists(WORD, min_size=4, max_size=4), st.tuples(WORD, WORD))
def test_agrees_with_integers_of_any_length(counter: list[int], key: tuple[int, int]) -> None:
    assert philox4x32(torch.tensor([counter]), key)[0].tolist() == philox_in_python(counter, key)


def test_the_documented_layout_of_counter_key_and_normals() -> None:
    seed, volume, stage, window, step, purpose = 0x123456789ABCDEF0, 77, 3, 41, 9, "resample"
    counter = [volume, stage << 24 | window, step << 8 | PURPOSES[purpose], 1]
    words = philox_in_python(counter, (seed & ONES, seed >> 32))
    u = [(w + 0.5) / 2**32 for w in words]
    radii = [math.sqrt(-2 * math.log(u[0])), math.sqrt(-2 * math.log(u[2]))]
    expected = [
        radii[0] * math.cos(2 * math.pi * u[1]),
        radii[0] * math.sin(2 * math.pi * u[1]),
        radii[1] * math.cos(2 * math.pi * u[3]),
    ]
    drawn = normal(
        seed, volume=[volume], stage=stage, window=[window], step=step, shape=(7,), purpose=purpose
    )
    assert drawn[0, 4:].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_volume_alone_equals_the_volume_in_a_batch_of_eight() -> None:
    shape, volumes, windows = (2, 5, 7), [3, 1, 4, 1, 5, 9, 2, 6], [0, 8, 8, 3, 0, 0, 7, 1]
    batch = NoiseStream(11, volumes, 1, windows, shape)
    for i, (volume, window) in enumerate(zip(volumes, windows, strict=True)):
        alone = NoiseStream(11, [volume], 1, [window], shape)
        for step, purpose in itertools.product((0, 12), ("step", "known")):
            assert torch.equal(batch(step, purpose)[i], alone(step, purpose)[0])


def test_every_field_of_the_counter_gives_other_noise() -> None:
    base = {"seed": 1, "volume": 2, "stage": 1, "window": 3, "step": 4, "purpose": "step"}
    changes = [("seed", 2), ("seed", 1 + 2**40), ("volume", 3), ("stage", 2), ("window", 4)]
    changes += [("step", 5), *(("purpose", p) for p in PURPOSES if p != "step")]

    def draw(**k: object) -> torch.Tensor:
        fields = {**base, **k}
        sample = {"volume": [fields.pop("volume")], "window": [fields.pop("window")]}
        return normal(**fields, **sample, shape=(1000,))[0]  # type: ignore[arg-type]

    draws = [draw(), *(draw(**{key: value}) for key, value in changes)]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlation.abs().max().item() < 4.5 / math.sqrt(1000)


def test_moments_and_tails_are_those_of_a_standard_normal() -> None:
    z = normal(5, volume=range(8), stage=1, window=[0] * 8, step=0, shape=(125_000,)).double()
    n = z.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = (z**power).mean().item() - moment
        assert abs(error) < 4 * math.sqrt(variance / n), power
    for bound in (1.0, 2.0, 3.0, 4.0):
        share = math.erfc(bound / math.sqrt(2))
        assert abs((z.abs() > bound).double().mean().item() - share) < 4 * math.sqrt(share / n)


def test_neighbours_and_partners_are_uncorrelated() -> None:
    z = normal(6, volume=[0], stage=1, window=[0], step=0, shape=(400_000,))[0].double()
    for lag in range(1, 9):
        assert abs((z[:-lag] * z[lag:]).mean().item()) < 4.5 / math.sqrt(len(z))
    pairs = z.reshape(-1, 2) ** 2  # the two normals of one Box-Muller pair share a radius
    assert abs(torch.corrcoef(pairs.T)[0, 1].item()) < 4.5 / math.sqrt(len(pairs))


def test_normals_fill_the_radius_evenly() -> None:
    z = normal(7, volume=[0], stage=1, window=[0], step=0, shape=(100_000,))[0].double()
    cdf = (0.5 * (1 + torch.erf(z / math.sqrt(2)))).sort().values
    grid = torch.arange(1, len(z) + 1, dtype=torch.float64) / len(z)
    assert (cdf - grid).abs().max().item() < 1.95 / math.sqrt(len(z))  # Kolmogorov, 0.1 %


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 3))
def test_any_shape_is_the_beginning_of_the_same_stream(shape: list[int], batch: int) -> None:
    numbers = {"volume": range(batch), "stage": 1, "window": [0] * batch, "step": 0}
    drawn = normal(9, shape=shape, **numbers)  # type: ignore[arg-type]
    long = normal(9, shape=(125,), **numbers)  # type: ignore[arg-type]
    assert drawn.shape == (batch, *shape)
    assert torch.equal(drawn.flatten(1), long[:, : drawn[0].numel()])


def test_types_are_as_asked() -> None:
    double = NoiseStream(1, [0], 1, [0], (64,), dtype=torch.float64)(0)
    single = NoiseStream(1, [0], 1, [0], (64,))(0)
    assert single.dtype == torch.float32
    assert torch.equal(double.float(), single)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed: -1; want 0..2\\^64-1"),
        ({"volumes": [2**32]}, "volume: 4294967296; want 0..2\\^32-1"),
        ({"stage": 256}, "stage: 256; want 0..2\\^8-1"),
        ({"windows": [-3]}, "window: -3; want 0..2\\^24-1"),
        ({"windows": [0, 1]}, "windows: 2 numbers; want 1"),
    ],
)
def test_numbers_outside_the_counter_are_refused(change: dict[str, object], message: str) -> None:
    good = {"seed": 0, "volumes": [0], "stage": STAGES["mcdpm"], "windows": [0], "shape": (4,)}
    with pytest.raises(MedpairError, match=message):
        NoiseStream(**{**good, **change})  # type: ignore[arg-type]


def test_unknown_purposes_and_steps_are_refused() -> None:
    stream = NoiseStream(0, [0], 1, [0], (4,))
    with pytest.raises(MedpairError, match="'noise'; want one of"):
        stream(0, "noise")
    with pytest.raises(MedpairError, match="step: 16777216"):
        stream(1 << 24)
