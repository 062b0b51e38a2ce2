from __future__ import annotations

import pytest
import torch

from vid2vid.warp import blend, warp


@pytest.mark.parametrize("channels", [1, 3])
def test_zero_flow_returns_the_image(channels: int) -> None:
    image = torch.randn(2, channels, 7, 9)
    assert torch.allclose(warp(image, torch.zeros(2, 2, 7, 9)), image, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (0, -3), (1, 2)])
def test_a_whole_flow_shifts_by_whole_pixels(rows: int, columns: int) -> None:
    image = torch.randn(1, 1, 12, 10)
    flow = torch.tensor([float(rows), float(columns)])[None, :, None, None].expand(1, 2, 12, 10)
    shifted = image.roll((-rows, -columns), (2, 3))
    inside = (..., slice(3, -3), slice(3, -3))
    assert torch.allclose(warp(image, flow)[inside], shifted[inside], atol=1e-5)


def test_a_half_pixel_is_the_mean_of_its_neighbours() -> None:
    image = torch.arange(8.0).square().view(1, 1, 1, 8)
    flow = torch.zeros(1, 2, 1, 8)
    flow[:, 1] = 0.5
    expected = (image[..., :-1] + image[..., 1:]) / 2
    assert torch.allclose(warp(image, flow)[..., :-1], expected, atol=1e-4)


def test_beyond_the_border_the_outermost_pixel_is_read() -> None:
    image = torch.randn(1, 1, 5, 5)
    far = torch.full((1, 2, 5, 5), 50.0)
    assert torch.allclose(warp(image, far), image[..., -1:, -1:].expand_as(image), atol=1e-5)


def test_the_flow_has_gradients() -> None:
    flow = torch.full((1, 2, 6, 6), 0.3, requires_grad=True)
    warp(torch.arange(36.0).view(1, 1, 6, 6), flow).sum().backward()
    assert flow.grad is not None
    assert flow.grad[:, :, 1:-2, 1:-2].abs().min() > 0


def test_a_flow_that_is_not_a_number_does_not_crash() -> None:
    flow = torch.full((1, 2, 4, 4), float("nan"), requires_grad=True)
    out = warp(torch.ones(1, 1, 4, 4, requires_grad=True), flow)
    out.sum().backward()
    assert torch.isfinite(out).all()


def test_blend_is_the_texture_at_weight_one_and_the_past_at_zero() -> None:
    raw, past = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(blend(raw, past, torch.ones(2, 1, 4, 4)), raw)
    assert torch.equal(blend(raw, past, torch.zeros(2, 1, 4, 4)), past)
    assert torch.allclose(
        blend(raw, past, torch.full((2, 1, 4, 4), 0.25)), 0.25 * raw + 0.75 * past
    )
