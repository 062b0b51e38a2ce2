import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from common.errors import MedpairError
from mcdpm.codec import build_codec

CODES = ("one_hot", "scalar")


def random_label(num_classes: int, seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, num_classes, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("code", CODES)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_labels_come_back(code: str, num_classes: int, seed: int) -> None:
    codec, label = build_codec(code, num_classes), random_label(num_classes, seed, 2, 3, 4, 5)
    encoded = codec.encode(label)
    assert encoded.shape == (2, 3, codec.channels, 4, 5)
    assert encoded.dtype == torch.float32
    assert encoded.min() >= -1
    assert encoded.max() <= 1
    decoded = codec.decode(encoded)
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, label)
    scores = codec.scores(encoded)
    assert scores.shape == (2, 3, num_classes, 4, 5)
    assert torch.equal(scores.argmax(2).byte(), label)


@pytest.mark.parametrize("code", CODES)
def test_every_class_has_a_code_of_its_own_as_far_apart_as_can_be(code: str) -> None:
    codec = build_codec(code, 6)
    codes = codec.encode(torch.arange(6, dtype=torch.uint8).view(6, 1, 1)).flatten(1)
    nearest = (torch.cdist(codes, codes) + 10 * torch.eye(6)).min(1).values
    wanted = 8**0.5 if code == "one_hot" else 2 / 5
    torch.testing.assert_close(nearest, torch.full((6,), wanted))


@pytest.mark.parametrize(("code", "sigma"), [("one_hot", 0.25), ("scalar", 0.05)])
def test_small_noise_is_forgiven(code: str, sigma: float) -> None:
    """A scalar level is lost beyond 1/5 of the range, a one-hot channel beyond 1: 4 sigma each."""
    codec, label = build_codec(code, 6), random_label(6, 0, 8, 32, 32)
    noise = torch.randn(codec.encode(label).shape, generator=torch.Generator().manual_seed(1))
    wrong = (codec.decode(codec.encode(label) + sigma * noise) != label).float().mean()
    assert wrong < 1e-3
    much = (codec.decode(codec.encode(label) + 8 * sigma * noise) != label).float().mean()
    assert much > 0.1


def test_a_blurred_border_of_0_and_5_has_a_third_label_in_scalars_only() -> None:
    label = torch.zeros(1, 12, 12, dtype=torch.uint8)
    label[:, :, 6:] = 5
    seen = {}
    for code in CODES:
        codec = build_codec(code, 6)
        blurred = F.avg_pool2d(codec.encode(label), 3, stride=1, padding=1, count_include_pad=False)
        seen[code] = set(codec.decode(blurred).unique().tolist())
    assert seen["one_hot"] == {0, 5}
    assert seen["scalar"] > {0, 5}


def test_another_code_is_refused() -> None:
    with pytest.raises(MedpairError, match=r"label_code is 'bits'; use one of .*one_hot"):
        build_codec("bits", 6)
