import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.data.phantom import make_phantom
from common.data.resize import resize_labels, resize_scores


def test_equal_sizes_change_nothing() -> None:
    label = torch.randint(0, 6, (3, 8, 10), dtype=torch.uint8)
    assert torch.equal(resize_labels(label, (8, 10), 6), label)


@given(st.integers(0, 1000), st.integers(3, 24), st.integers(3, 24))
def test_no_slice_gains_an_id(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 6, (2, 9, 7), generator=generator, dtype=torch.uint8)
    label[label == 3] = 5
    resized = resize_labels(label, (height, width), 6)
    assert resized.dtype == torch.uint8
    assert resized.shape == (2, height, width)
    for before, after in zip(label, resized, strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist())


@pytest.mark.parametrize("size", [(24, 20), (80, 60), (33, 27)])
def test_shares_and_places_of_labels_survive(size: tuple[int, int]) -> None:
    label = torch.from_numpy(make_phantom("brain4", (16, 48, 40), 0)[1])
    resized = resize_labels(label, size, 6)
    for old, new in ((label > 0, resized > 0), (label == 3, resized == 3)):
        assert float(new.float().mean()) == pytest.approx(float(old.float().mean()), rel=0.1)
        for axis in (1, 2):  # no half-pixel shift: centres agree as shares of the field
            there = [
                (m.nonzero()[:, axis].float().mean() + 0.5) / m.shape[axis] for m in (old, new)
            ]
            assert float(there[0]) == pytest.approx(float(there[1]), abs=0.01)


def test_a_disc_is_enlarged_without_stairs() -> None:
    """Against the true disc, class scores make fewer errors than repeated pixels."""

    def disc(size: int) -> torch.Tensor:
        u = (torch.arange(size) + 0.5) / size - 0.5
        return ((u[:, None] ** 2 + u**2) < 0.35**2).to(torch.uint8)[None]

    small, large = disc(16), disc(64)
    smooth = resize_labels(small, (64, 64), 2)
    stairs = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert (smooth != large).sum() < 0.9 * (stairs != large).sum()


def test_the_largest_score_wins() -> None:
    scores = torch.randn(2, 5, 6, 6)
    assert torch.equal(resize_scores(scores, (6, 6)), scores.argmax(1).byte())
    assert resize_scores(scores, (12, 9)).shape == (2, 12, 9)
