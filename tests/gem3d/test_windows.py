"""B windows, S slices per window, D slices per volume, C latent channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.engines.batches import IterationBatches
from common.errors import MedpairError
from gem3d.windows import InformedDraw, LatentVolumes, WindowBatches, encode_volume

QUIET = InformedDraw(noisy=0.0)


class Numbered:
    """Stands for `LatentVolumes`: the latents of slice z are z, its labels z + 100."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        number = torch.arange(self.depth)
        latent = number.float()[:, None, None, None].expand(-1, 2, 3, 3)
        return latent, (number + 100).to(torch.uint8)[:, None, None].expand(-1, 12, 12)


def batches(depth: int, window: int, size: int = 4, **kw: Any) -> WindowBatches:
    settings: dict[str, Any] = {"informed": QUIET}
    return WindowBatches(Numbered(depth), window, size, **(settings | kw))  # type: ignore[arg-type]


def draw(source: WindowBatches, seed: int = 0) -> dict[str, Tensor]:
    return source(torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 12),
    window=st.integers(2, 8),
    edge=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_windows_labels_offsets_and_positions_belong_together(
    depth: int, window: int, edge: float, seed: int
) -> None:
    drawn = InformedDraw(edge=edge, noisy=0.0)
    batch = draw(batches(depth, window, informed=drawn), seed)
    place = batch["latent"][:, :, 0, 0, 0]
    first = place[:, :1]
    expected = (first + torch.arange(window)).clamp(max=depth - 1)  # short: the last is repeated
    assert torch.equal(place, expected)
    assert (first <= max(0, depth - window)).all()
    assert (batch["label"][:, :, 0, 0].float() == place + 100).all()
    torch.testing.assert_close(batch["position"], place / depth)
    informed = batch["informed"][:, 0, 0, 0, None]
    assert torch.equal(batch["offset"], place - informed)
    assert (batch["offset"] == 0).any(dim=1).all()  # one of the window's own slices
    assert (batch["informed"][:, -1] == 1).all()
    assert not batch["known"].any()


@pytest.mark.parametrize(("depth", "window"), [(9, 4), (6, 6), (7, 6)])
def test_every_start_is_drawn_the_last_too(depth: int, window: int) -> None:
    starts = draw(batches(depth, window, 200))["latent"][:, 0, 0, 0, 0]
    assert set(starts.tolist()) == set(range(depth - window + 1))


def test_informed_slices_stand_at_the_edges_as_often_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 6000
    for edge in (0.0, 0.5, 1.0):
        drawn = InformedDraw(edge=edge)
        index = torch.tensor([drawn.index(6, generator) for _ in range(n)])
        counts = torch.bincount(index, minlength=6).double() / n
        outer, inner = edge / 2 + (1 - edge) / 6, (1 - edge) / 6
        expected = torch.tensor([outer, *[inner] * 4, outer], dtype=torch.float64)
        torch.testing.assert_close(counts, expected, atol=0.02, rtol=0)  # 3 sigma at most


def test_noise_on_informed_slices_is_as_strong_and_frequent_as_asked() -> None:
    drawn, generator = InformedDraw(noise=0.4, noisy=0.25), torch.Generator().manual_seed(0)
    clean = torch.ones(4, 16, 16)
    spread = torch.stack([(drawn.disturbed(clean, generator) - clean).std() for _ in range(1200)])
    noisy = spread > 0
    assert float(noisy.float().mean()) == pytest.approx(0.25, abs=0.04)
    assert float(spread.max()) <= 0.4 * 1.1
    assert float(spread[noisy].mean()) == pytest.approx(0.2, abs=0.02)  # uniform in 0..0.4


def test_the_window_itself_stays_clean() -> None:
    noisy = InformedDraw(edge=0.0, noise=1.0, noisy=1.0)
    batch = draw(batches(9, 4, informed=noisy))
    place = batch["latent"][:, :, 0, 0, 0]
    assert torch.equal(place, place.round())
    assert not torch.equal(batch["informed"][:, :-1], batch["informed"][:, :-1].round())


def test_given_slices_are_at_one_end_and_leave_one_to_make() -> None:
    known = draw(batches(9, 5, 400, inpaint_share=0.5))["known"]
    count = known.sum(1)
    assert float((count > 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert set(count.tolist()) == {0, 1, 2, 3, 4}
    some = known[count > 0]
    assert ((some.int().diff(dim=1) != 0).sum(1) == 1).all()  # one run, at an end
    assert float(some[:, 0].float().mean()) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(("window", "size"), [(1, 4), (0, 4), (4, 0)])
def test_windows_that_cannot_be_are_refused(window: int, size: int) -> None:
    with pytest.raises(MedpairError, match=rf"window {window}, batch_size {size}; want"):
        batches(9, window, size)


@torch.no_grad()
def test_latents_are_those_of_the_slices_and_made_once(make: Any) -> None:
    autoencoder = make.autoencoder()
    volumes = make.volumes(size=(70, 8, 8))  # more than one chunk
    latents = LatentVolumes(volumes, autoencoder)
    found, label = latents.of(volumes.volume(1))
    expected = torch.cat([autoencoder.encode(s[None, None]) for s in volumes.images[1]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found, encode_volume(autoencoder, volumes.images[1]))
    assert label is volumes.labels[1]
    assert latents.of(volumes.volume(1))[0] is found
    other, _ = latents.of(volumes.volume(0))
    assert not torch.equal(other, found)


@torch.no_grad()
def test_changed_copies_have_latents_of_their_own(make: Any) -> None:
    volumes = make.volumes(copies=2)
    latents = LatentVolumes(volumes, make.autoencoder())
    one, other = (latents.of(volumes.volume(0, copy))[0] for copy in (0, 1))
    assert not torch.equal(one, other)


@torch.no_grad()
def test_batches_depend_on_seed_and_iteration_only(make: Any) -> None:
    def source() -> IterationBatches:
        latents = LatentVolumes(make.volumes(copies=3), make.autoencoder())
        return IterationBatches(WindowBatches(latents, 4, 2), 5, 10)

    one, other = source(), source()
    drawn = [batch for _, batch in zip(range(4), one, strict=False)]
    other.iteration = 3
    again = next(iter(other))
    for key, value in drawn[3].items():
        same = torch.equal(again[key], value) if isinstance(value, Tensor) else again[key] == value
        assert same, key
    assert not torch.equal(drawn[2]["latent"], drawn[3]["latent"])
