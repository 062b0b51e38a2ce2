"""B windows, S slices per window, K classes, H, W image size, h, w latent size, f = H / h."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from common.errors import MedpairError
from gem3d.conditions import CODES, MaskEncoding, border, check_scale, informed_maps

K = 6


def labels(size: tuple[int, ...] = (2, 3, 16, 12), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, K, size, generator=generator, dtype=torch.uint8)


@settings(max_examples=20, deadline=None)
@given(
    factor=st.sampled_from([4, 8]),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_fractions_are_the_shares_of_each_block(
    factor: int, rows: int, columns: int, seed: int
) -> None:
    label = labels((2, 3, rows * factor, columns * factor), seed)
    maps = MaskEncoding(K, factor, "fractions", contour=False)(label)
    assert maps.shape == (2, 3, K, rows, columns)
    torch.testing.assert_close(maps.sum(2), torch.ones(2, 3, rows, columns))
    corner = label[1, 2, -factor:, -factor:]
    counted = torch.bincount(corner.flatten().long(), minlength=K) / factor**2
    torch.testing.assert_close(maps[1, 2, :, -1, -1], counted)


@settings(max_examples=20, deadline=None)
@given(factor=st.sampled_from([4, 8]), rows=st.integers(1, 3), seed=st.integers(0, 99))
def test_subpixel_keeps_every_voxel(factor: int, rows: int, seed: int) -> None:
    label = labels((2, 3, rows * factor, 2 * factor), seed)
    encoding = MaskEncoding(K, factor, "subpixel", contour=False)
    maps = encoding(label)
    assert maps.shape[2] == encoding.channels == K * factor**2
    assert set(maps.unique().tolist()) <= {0.0, 1.0}
    back = F.pixel_shuffle(maps.flatten(0, 1), factor).argmax(1).view_as(label)
    assert torch.equal(back, label.long())


def test_subpixel_channels_sum_to_the_fractions() -> None:
    label = labels()
    fine = MaskEncoding(K, 4, "subpixel", contour=False)(label)
    coarse = MaskEncoding(K, 4, "fractions", contour=False)(label)
    torch.testing.assert_close(fine.unflatten(2, (K, 16)).mean(3), coarse)


def test_grey_is_what_the_autoencoder_makes_of_grey_levels(make: Any) -> None:
    autoencoder = make.autoencoder()
    encoding = MaskEncoding(K, 4, "grey", contour=False, autoencoder=autoencoder)
    label = labels()
    label[0, 0], label[0, 1] = 0, K - 1
    maps = encoding(label)
    assert maps.shape[2] == encoding.channels == make.channels
    black, white = (autoencoder.encode(torch.full((1, 1, 16, 12), v)) for v in (-1.0, 1.0))
    torch.testing.assert_close(maps[0, :2], torch.cat([black, white]), atol=1e-5, rtol=1e-5)
    levels = label[1].float() * 2 / (K - 1) - 1
    expected = autoencoder.encode(levels[:, None])
    torch.testing.assert_close(maps[1], expected, atol=1e-5, rtol=1e-5)
    assert not maps.requires_grad


@pytest.mark.parametrize("code", CODES)
def test_the_contour_is_one_more_channel_with_the_share_of_border_voxels(
    code: Any, make: Any
) -> None:
    label = torch.zeros(1, 1, 16, 12, dtype=torch.uint8)
    label[..., 3:10, 2:9] = 3  # 7 x 7: 24 voxels on its border
    autoencoder = make.autoencoder()
    with_contour = MaskEncoding(K, 4, code, contour=True, autoencoder=autoencoder)
    without = MaskEncoding(K, 4, code, contour=False, autoencoder=autoencoder)
    maps = with_contour(label)
    assert maps.shape[2] == with_contour.channels == without.channels + 1
    torch.testing.assert_close(maps[:, :, :-1], without(label))
    assert maps[0, 0, -1].sum() * 16 == 24
    assert maps[0, 0, -1, 3].sum() == 0  # rows 12-15 lie outside
    inner = label.clone()
    inner[..., 5, 5] = 1
    assert torch.equal(with_contour(inner)[:, :, -1], maps[:, :, -1])  # no border of the body


def test_the_border_touches_the_outside_over_an_edge() -> None:
    inside = torch.zeros(1, 6, 6, dtype=torch.bool)
    inside[0, 1:5, 1:5] = True
    inside[0, 1, 1] = False  # its diagonal neighbour (2, 2) does not become border
    found = border(inside)[0]
    assert not found[~inside[0]].any()
    assert not found[2, 2]
    assert found[1, 2]
    assert found[2, 1]
    assert int(found.sum()) == 11
    assert int(border(torch.ones(1, 4, 5, dtype=torch.bool)).sum()) == 14  # the slice's own edge
    hole = torch.ones(1, 5, 5, dtype=torch.bool)
    hole[0, 2, 2] = False
    inner = border(hole)[0, 1:4, 1:4].nonzero().tolist()
    assert inner == [[0, 1], [1, 0], [1, 2], [2, 1]]


@pytest.mark.parametrize("value", [-1, K, 200])
def test_labels_outside_the_schema_are_named(value: int) -> None:
    label = labels().int()
    label[1, 2, 3, 4] = value
    with pytest.raises(MedpairError, match=rf"label: values .*{value}.*, wanted 0\.\.5") as error:
        MaskEncoding(K, 4)(label)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": "rgb"}, r"mask_code: 'rgb'; want one of subpixel, fractions, grey"),
        ({"code": "grey"}, r"mask_code: 'grey' without autoencoder"),
    ],
)
def test_encodings_that_cannot_be_say_so(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MedpairError, match=message):
        MaskEncoding(K, 4, **changes)


def test_informed_maps_say_that_they_are_present() -> None:
    latent = torch.randn(2, 4, 3, 5)
    maps = informed_maps(latent)
    assert torch.equal(maps[:, :-1], latent)
    assert torch.equal(maps[:, -1], torch.ones(2, 3, 5))
    assert informed_maps(torch.zeros(1, 4, 3, 5)).any()  # black is not "none"


def test_another_latent_scale_is_refused(make: Any) -> None:
    autoencoder, network = make.autoencoder(), make.denoiser()
    network.latent_std.copy_(autoencoder.latent_std.half().float())  # as weight files keep it
    check_scale(autoencoder, network)
    network.latent_std[2] *= 1.05
    with pytest.raises(MedpairError, match=r"latent scale \[.*the weights were trained") as error:
        check_scale(autoencoder, network)
    assert "\n" not in str(error.value)
    with pytest.raises(MedpairError, match="latent scale"):
        check_scale(make.autoencoder(latent_channels=8), network)
