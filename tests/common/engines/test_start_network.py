"""Trainings that start from given weights, as the configs of the bundles name them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from common.bundles import bundles_dir
from common.engines.weights import save_weights, start_network
from common.errors import MedpairError
from common.stages import open_workflow, plain_errors


def test_fresh_or_given(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    given, fresh = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    save_weights(given, path, {"schema": "brain4", "preset": "tiny"})
    before = fresh.weight.clone()
    assert torch.equal(start_network(fresh, "cpu", "brain4").weight, before)
    started = start_network(fresh, "cpu", "brain4", str(path))
    assert started.training
    assert torch.allclose(started.weight, given.weight, atol=1e-3)
    with pytest.raises(MedpairError, match="brain4"):
        start_network(fresh, "cpu", "lesion1", str(path))


@pytest.mark.parametrize("bundle", ["mcdpm_mask", "vid2vid_image", "sdm_refiner"])
def test_trainings_of_the_bundles(bundle: str) -> None:
    weights = bundles_dir() / bundle / "models" / "model.pt"
    workflow = open_workflow(bundle, "train", "tiny", {"initial_weights": str(weights)})
    with plain_errors():
        network = workflow.parser.get_parsed_content("network")
    shipped = torch.load(weights, weights_only=True)
    assert all(torch.equal(v, shipped[k].to(v)) for k, v in network.state_dict().items())
