"""The peak is that of the tensors, as a count by hand says; nothing is computed."""

from __future__ import annotations

import torch
from torch import nn

from common.engines.footprint import LiveBytes, peak_bytes

KIB = 1024


def test_a_chain_holds_what_it_still_needs() -> None:
    def chain() -> None:
        x = torch.zeros(KIB, dtype=torch.uint8)  # 1
        y = x.float()  # 1 + 4
        del x
        z = y + 1  # 4 + 4
        del y
        z.view(2, -1).double()  # 4 + 8

    assert peak_bytes(chain) == 12 * KIB


def test_views_and_work_in_place_cost_nothing() -> None:
    def run() -> None:
        x = torch.zeros(4, 256, dtype=torch.uint8)
        x[1:].t().add_(1).view(torch.int8)

    assert peak_bytes(run) == KIB


def test_sizes_that_no_memory_holds_are_counted() -> None:
    assert peak_bytes(lambda: torch.zeros(2**20, 2**20)) == 2**42


def test_a_network_counts_as_when_it_runs() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU())
    with torch.no_grad(), LiveBytes() as real:
        network(torch.zeros(2, 3, 16, 16))
    counted = peak_bytes(lambda: network(torch.zeros(2, 3, 16, 16)))
    assert counted == real.peak
    assert counted >= 2 * (2 * 16 * 16 * 16 * 4)  # an output beside its input
