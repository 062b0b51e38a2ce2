"""Weights that do not fit never run."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from common.errors import MedpairError
from common.networks.strict import refuse_misfits


def network() -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    refuse_misfits(made)
    return made


def test_fitting_weights_load() -> None:
    made = network()
    made.load_state_dict(network().state_dict(), strict=False)


@pytest.mark.parametrize("strict", [True, False])
def test_misfits_are_refused_even_where_they_are_allowed(strict: bool) -> None:
    made = copy.deepcopy(network())
    with pytest.raises(MedpairError, match=r"lacks 0.weight, 0.bias, 1.weight and 1 more"):
        made.load_state_dict({"state_dict": made.state_dict()}, strict=strict)
    state = network().state_dict()
    del state["1.bias"]
    with pytest.raises(MedpairError, match=r"lacks 1.bias; give a bare state dict"):
        made.load_state_dict(state, strict=strict)
    with pytest.raises(MedpairError, match="holds unknown more"):
        made.load_state_dict(network().state_dict() | {"more": state["0.bias"]}, strict=strict)
