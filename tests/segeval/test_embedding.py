"""The contrastive embedding: changed views are near, others far; equal inputs, equal bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.phantom import make_phantom
from common.errors import MedpairError
from common.metrics.rigid import half
from segeval.embedding import (
    Contrast,
    Embedding,
    _view,
    embedding_likeness,
    train_embedding,
)

N = 8
SHORT = Contrast(updates=60, channels=(16, 32), features=16, learning_rate=0.003)


def phantoms(*seeds: int) -> Tensor:
    """Phantoms at half resolution, as the audit compares scans."""
    images = [make_phantom("brain4", (32, 28, 28), seed)[0] for seed in seeds]
    return half(torch.from_numpy(np.stack(images)))


@pytest.fixture(scope="module")
def scans() -> Tensor:
    return phantoms(*range(N)).clamp(0, 1)


@pytest.fixture(scope="module")
def trained(scans: Tensor) -> Embedding:
    return train_embedding(scans, SHORT)


def test_a_changed_scan_is_nearest_to_itself(trained: Embedding, scans: Tensor) -> None:
    noise = 0.02 * torch.randn(scans.shape, generator=torch.Generator().manual_seed(0))
    noisy = torch.where(scans > 0, scans + noise, 0).clamp(0, 1)
    for changed in (scans, scans.flip(-1), noisy, scans**0.97):
        likeness = embedding_likeness(trained, changed, scans)
        assert likeness.argmax(axis=1).tolist() == list(range(N))
    equal = np.diag(embedding_likeness(trained, scans, scans))
    assert equal == pytest.approx(np.ones(N), abs=1e-5)
    flipped = embedding_likeness(trained, scans.flip(-1), scans, mirror=False)
    assert np.diag(flipped).max() < 1 - 1e-3


def test_scans_lie_around_their_centre(trained: Embedding, scans: Tensor) -> None:
    likeness = embedding_likeness(trained, scans, scans, mirror=False)
    assert abs(likeness[~np.eye(N, dtype=bool)].mean()) < 0.15


def test_training_draws_the_views_of_a_scan_together(scans: Tensor) -> None:
    """Views come nearer to their own scan than those of a network that is one update old."""
    generator = torch.Generator().manual_seed(5)
    views = torch.stack(
        [_view(scan, SHORT.augment, generator) for scan in scans.repeat(3, 1, 1, 1)]
    )

    def margin(updates: int) -> float:
        network = train_embedding(scans, replace(SHORT, updates=updates))
        likeness = embedding_likeness(network, views, scans)
        own = likeness[range(3 * N), np.tile(range(N), 3)]
        return float((own - likeness.mean(axis=1)).mean())

    assert margin(SHORT.updates) > margin(1) + 0.1


def test_equal_inputs_give_equal_bits_whatever_was_drawn_before(
    scans: Tensor, one_thread: None
) -> None:
    trained = train_embedding(scans, SHORT)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    again = train_embedding(scans, SHORT)
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_the_cache_is_named_by_what_decides_the_weights(scans: Tensor, tmp_path: Path) -> None:
    how = Contrast(updates=2, channels=(8, 16), features=16)
    calls: list[int] = []

    def count(task: str, done: int, total: int) -> None:
        calls.append(done)

    first = train_embedding(scans, how, tmp_path, count)
    again = train_embedding(scans, how, tmp_path, count)
    assert calls == [1, 2]
    assert torch.equal(embedding(first, scans), embedding(again, scans))
    train_embedding(scans[:5], how, tmp_path, count)
    train_embedding(scans, Contrast(updates=1, channels=(8, 16), features=16), tmp_path, count)
    assert len(list(tmp_path.glob("embedding-*.pt"))) == 3


def embedding(network: Embedding, scans: Tensor) -> Tensor:
    with torch.no_grad():
        return network(scans)


def test_too_few_scans_and_wrong_settings_are_named(scans: Tensor) -> None:
    with pytest.raises(MedpairError, match="3 scans, wanted >= 4"):
        train_embedding(scans[:3], SHORT)
    with pytest.raises(MedpairError, match="batch_size 1"):
        Contrast(batch_size=1)


def test_an_empty_set_has_no_likeness(trained: Embedding, scans: Tensor) -> None:
    assert embedding_likeness(trained, scans[:0], scans).shape == (0, N)
    assert embedding_likeness(trained, scans, scans[:0]).shape == (N, 0)
