"""V volumes, D, H, W volume size, C latent channels, h, w latent size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import MedpairError
from gem3d.generate import Context, InformedSlice, VolumeGenerator
from gem3d.volumes import pad_in_plane

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (11, 15, 18)  # neither side is a multiple of 4; deeper than the window


def slice_of(seed: int, index: int, impose: bool = False, size: Any = SIZE[1:]) -> InformedSlice:
    generator = torch.Generator().manual_seed(seed)
    return InformedSlice(torch.rand(size, generator=generator) * 2 - 1, index, f"s{seed}", impose)


def masks(make: Any, count: int = 2, size: tuple[int, int, int] = SIZE) -> Tensor:
    return torch.stack([make.label(size, seed) for seed in range(count)])


def reconstruction(network: Any, image_NHW: Tensor) -> Tensor:
    height, width = image_NHW.shape[-2:]
    padded = pad_in_plane(image_NHW, 4, -1.0)[:, None]
    with torch.no_grad():
        made = network.autoencoder.decode(network.autoencoder.encode(padded))
    return made[:, 0, :height, :width]


@pytest.fixture(scope="module")
def generator(make: Any) -> Any:
    return make.generator()


@pytest.mark.parametrize("size", [SIZE, (4, 16, 16), (6, 16, 16)])
def test_images_have_the_size_of_the_masks(
    size: tuple[int, int, int], generator: Any, make: Any
) -> None:
    informed = [slice_of(0, 1, size=size[1:])]
    made = generator(masks(make, 1, size), informed, volumes=[0], seed=0)
    assert made.shape == (1, *size)
    assert made.dtype == torch.float32
    assert made.abs().max() <= 1
    assert torch.isfinite(made).all()
    assert made.std() > 1e-3


@pytest.mark.parametrize("index", [0, 5, 10])
def test_an_imposed_slice_comes_back_as_its_reconstruction(
    index: int, generator: Any, make: Any
) -> None:
    informed = [slice_of(0, index, impose=True), slice_of(1, index)]
    made = generator(masks(make), informed, volumes=[0, 1], seed=0)
    images = torch.stack([s.image_HW for s in informed])
    gap = (made[:, index] - reconstruction(generator.network, images)).abs().amax((1, 2))
    assert gap[0] < 1e-4
    assert gap[1] > 1e-2  # informed alone


def test_known_context_is_kept(generator: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    known = torch.zeros(1, *SIZE, dtype=torch.bool)
    known[:, :, :9] = True  # latent rows 0 and 1 whole, row 2 in part
    known[:, 3] = True
    sampled = []

    def decode(self: VolumeGenerator, latents: Tensor) -> Tensor:
        sampled.append(latents)
        return decoded(self, latents)

    decoded = VolumeGenerator._decode
    monkeypatch.setattr(VolumeGenerator, "_decode", decode)
    words: dict[str, Any] = {"volumes": [0], "seed": 0}
    made = generator(masks(make, 1), [slice_of(0, 5)], **words, context=Context(image, known))
    whole = reconstruction(generator.network, image[0])
    assert (made[0, 3] - whole[3]).abs().max() < 1e-4
    latent, kept = generator._encoded(Context(image, known))
    assert kept[0, 0, 0].any(1).tolist() == [True, True, False, False]
    where = kept.expand_as(latent)
    torch.testing.assert_close(sampled[0][where], latent[where], atol=1e-4, rtol=0)
    assert (sampled[0] - latent)[~where].abs().mean() > 0.1
    generator(masks(make, 1), [slice_of(0, 5)], **words)
    gap = (sampled[1] - sampled[0])[~where].abs().mean()
    assert gap > 1e-3  # what is made fits what is known


def test_a_latent_pixel_is_known_where_all_its_voxels_are(generator: Any, make: Any) -> None:
    known = torch.zeros(1, 1, 15, 18, dtype=torch.bool)
    known[..., 4:, 4:] = True
    known[..., 9, 9] = False
    image = torch.zeros(1, 1, 15, 18)
    latent, found = generator._encoded(Context(image, known))
    assert latent.shape == (1, 1, make.channels, 4, 5)
    expected = torch.ones(4, 5, dtype=torch.bool)
    expected[0], expected[:, 0], expected[2, 2] = False, False, False
    assert torch.equal(found[0, 0, 0], expected)  # the padding counts as known


def test_a_volume_does_not_change_with_its_neighbours(generator: Any, make: Any) -> None:
    label, informed = masks(make, 3), [slice_of(n, n + 3) for n in range(3)]
    together = generator(label, informed, volumes=[4, 7, 9], seed=1)
    alone = generator(label[1:2], informed[1:2], volumes=[7], seed=1)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)
    swapped = generator(label.flip(0), informed[::-1], volumes=[9, 7, 4], seed=1)
    torch.testing.assert_close(swapped.flip(0), together, atol=1e-4, rtol=0)
    for changed in ({"volumes": [8], "seed": 1}, {"volumes": [7], "seed": 2}):
        other = generator(label[1:2], informed[1:2], **changed)
        assert (other - alone).abs().max() > 1e-2


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_decoding_in_chunks_gives_the_same_image(chunk: int, generator: Any, make: Any) -> None:
    label, informed = masks(make), [slice_of(0, 5), slice_of(1, 2)]
    usual = generator(label, informed, volumes=[0, 1], seed=0)
    chunked = replace(generator, chunk=chunk)(label, informed, volumes=[0, 1], seed=0)
    torch.testing.assert_close(chunked, usual, atol=1e-5, rtol=0)


def test_mask_and_informed_slice_reach_the_image(generator: Any, make: Any) -> None:
    label, informed = masks(make, 1), [slice_of(0, 5)]
    made = generator(label, informed, volumes=[0], seed=0)
    other_mask = generator(label.flip(2), informed, volumes=[0], seed=0)
    other_slice = generator(label, [slice_of(1, 5)], volumes=[0], seed=0)
    for other in (other_mask, other_slice):
        assert (other - made).abs().amax((0, 2, 3)).min() > 1e-5  # in every slice


def informed_list(*slices: InformedSlice) -> dict[str, Any]:
    return {"informed": list(slices)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (informed_list(), r"informed: 0 slices; want 1, one per mask"),
        (informed_list(slice_of(0, 11)), r"informed slice of s0: slice 11; want 0\.\.10"),
        (informed_list(slice_of(0, -1)), r"slice -1; want 0\.\.10"),
        (informed_list(slice_of(0, 1, size=(16, 18))), r"size \(16, 18\); want \(15, 18\)"),
        ({"volumes": [0, 1]}, r"volumes: 2 values; want 1, one per mask"),
        ({"label": 9}, r"label: values 0\.\.9, wanted 0\.\.5"),
        (
            {"context": Context(torch.zeros(1, 10, 15, 18), torch.ones(1, 10, 15, 18).bool())},
            r"context: shape \(1, 10, 4, 4, 5\); want \(1, 11, 4, 4, 5\)",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    changes: dict[str, Any], message: str, generator: Any, make: Any
) -> None:
    label = masks(make, 1)
    if "label" in changes:
        label[0, 3, 4, 5] = changes.pop("label")
    given = {"informed": [slice_of(0, 5)], "volumes": [0], "seed": 0} | changes
    with pytest.raises(MedpairError, match=message) as error:
        generator(label, given.pop("informed"), **given)
    assert "\n" not in str(error.value)
