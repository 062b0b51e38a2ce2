from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import MedpairError
from vid2vid.flow import cached_flows, reference_flow
from vid2vid.warp import warp


def moving_blob(depth: int = 4, step: float = 1.5) -> torch.Tensor:
    """A smooth blob whose rows grow by ``step`` pixels per slice, in [-1, 1], (D, 1, H, W)."""
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    slices = [
        torch.exp(-((row - 12 - step * z) ** 2 + (column - 16) ** 2) / 40) for z in range(depth)
    ]
    return torch.stack(slices)[:, None] * 2 - 1


@pytest.mark.parametrize("method", ["tvl1", "ilk"])
def test_the_flow_finds_where_a_slice_was_before(method: str) -> None:
    image = moving_blob()
    flow = reference_flow(image, method)
    blob = image[2, 0] > 0
    assert abs(float(flow.up[2, 0][blob].median()) + 1.5) < 0.4
    assert abs(float(flow.down[2, 0][blob].median()) - 1.5) < 0.4
    plain = (image[2] - image[1]).abs().mean()
    assert (warp(image[1:2], flow.up[2:3]) - image[2:3]).abs().mean() < 0.5 * plain


def test_edges_have_no_flow_and_no_weight() -> None:
    flow = reference_flow(moving_blob(), "ilk")
    assert not flow.up[0].any()
    assert not flow.down[-1].any()
    assert not flow.up_weight[0].any()
    assert flow.up_weight[1:].float().mean() > 0.9


def test_the_direction_of_travel_chooses_the_flow() -> None:
    flow = reference_flow(moving_blob(), "ilk")
    assert flow.travelling(reverse=False)[0] is flow.up
    assert flow.travelling(reverse=True) == (flow.down, flow.down_weight)


def test_flows_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = moving_blob()
    first = cached_flows([image], "ilk", str(tmp_path))
    monkeypatch.setattr("vid2vid.flow.METHODS", {"ilk": None})  # a second computation would fail
    again = cached_flows([image], "ilk", str(tmp_path))
    assert np.array_equal(first[0].up, again[0].up)
    assert len(list(tmp_path.iterdir())) == 1
    assert cached_flows([image], None, str(tmp_path)) == []


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(MedpairError, match=r"'raft'.*'ilk', 'tvl1'"):
        reference_flow(moving_blob(), "raft")
