"""Presets whose weights are meant for the repository fit into it, their headers as well."""

from __future__ import annotations

import pytest

from common.bundles import bundles
from common.stages import open_workflow

LIMIT_MB = {"tiny": 12, "small": 12, "base": 40}
ALL_MB = {"tiny": 60, "small": 60, "base": 200}


@pytest.mark.parametrize("preset", LIMIT_MB)
def test_weights_of_a_preset_fit(preset: str) -> None:
    sizes = {}
    for bundle in bundles():
        workflow = open_workflow(bundle, "inference", preset, {"preset": preset})
        state = workflow.parser.get_parsed_content("network_def").state_dict()
        sizes[bundle] = 2 * sum(value.numel() for value in state.values()) / 1e6
    assert len(sizes) == 5
    assert max(sizes.values()) <= LIMIT_MB[preset] - 0.2, sizes
    assert sum(sizes.values()) <= ALL_MB[preset]
