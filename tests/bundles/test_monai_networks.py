"""The preset `monai`: MONAI core's networks train and generate in the place of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.datasets import PairSet
from common.engines.checkpoints import latest_checkpoint
from common.errors import MedpairError
from common.stages import open_workflow
from gem3d.slice_generator import SliceGenerator
from mcdpm.network import MaskDenoiser
from sdm.views import ViewDenoisers

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

PHANTOMS = "phantom:brain4:16x16x16:2"
TRAIN = {"dataset_dir": PHANTOMS, "device": "cpu", "progress": False, "precision": "fp32"}
TRAIN |= {"max_iterations": 2, "batch_size": 2, "val_interval": 1, "mlflow": False}
OPTIONS = {"norm_num_groups": 4, "num_head_channels": 8}
MCDPM = {
    "network_def::channels": [8, 16],
    "network_def::attention_levels": [False, True],
    "network_def::options": OPTIONS,
    "size": [16, 16],
}
SDM = {
    "network_def::channels": [8, 16],
    "network_def::attention_levels": [False, True],
    "network_def::norm_num_groups": 4,
    "network_def::num_head_channels": 8,
    "network_def::spade_intermediate_channels": 8,
}


def run(bundle: str, kind: str, **changes: Any) -> None:
    open_workflow(bundle, kind, "monai", changes).run()


def test_masks(tmp_path: Path) -> None:
    run("mcdpm_mask", "train", **TRAIN, **MCDPM, output_dir=str(tmp_path / "train"))
    run(
        "mcdpm_mask",
        "inference",
        **MCDPM,
        device="cpu",
        weights=str(tmp_path / "train" / "model.pt"),
        output_dir=str(tmp_path / "masks"),
        volume_size=[16, 16, 16],
        num_steps=2,
        batch_volumes=1,
        clean=False,
    )
    assert len(list((tmp_path / "masks").rglob("*.nii.gz"))) == 1


def test_refinement(tmp_path: Path) -> None:
    run("sdm_refiner", "train", **TRAIN, **SDM, output_dir=str(tmp_path / "train"))
    assert latest_checkpoint(tmp_path / "train" / "checkpoints") is not None
    run(
        "sdm_refiner",
        "inference",
        **SDM,
        device="cpu",
        dataset_dir=PHANTOMS,
        split=None,
        weights=str(tmp_path / "train" / "model.pt"),
        output_dir=str(tmp_path / "refined"),
    )
    assert len(PairSet.open(tmp_path / "refined").manifest) == 3


def test_a_mask_steers_monais_network_and_its_view_too() -> None:
    network = ViewDenoisers(
        6, "shared", network="monai", channels=[8, 16], spade_intermediate_channels=8, **OPTIONS
    ).eval()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.2
    x, t, position = torch.randn(2, 1, 16, 16), torch.tensor([10.0, 500.0]), torch.zeros(2, 2)
    mask = torch.zeros(2, 6, 16, 16)
    mask[:, 1] = 1
    with torch.no_grad():
        plain = network(x, t, mask, position, "axial")
        assert not torch.allclose(plain, network(x, t, 0 * mask, position, "axial"))
        assert not torch.allclose(plain, network(x, t, mask, position, "coronal"))
        assert torch.equal(plain, network(x, t, mask, position, "axial"))


def test_positions_reach_monais_networks() -> None:
    masks = MaskDenoiser(6, 4, [8, 16], network="monai", options=OPTIONS).eval()
    blind = MaskDenoiser(6, 4, [8, 16], position="none", network="monai", options=OPTIONS).eval()
    slices = SliceGenerator(3, [8, 16], network="monai", options=OPTIONS).eval()
    t = torch.tensor([10.0])
    for network in (masks, blind, slices):
        for parameter in network.parameters():
            parameter.data = torch.randn(parameter.shape) * 0.2
    with torch.no_grad():
        x = torch.randn(1, 4, 7, 16, 16)
        here, there = torch.tensor([[0.1, 0.02]]), torch.tensor([[0.7, 0.02]])
        assert not torch.allclose(masks(x, t, here), masks(x, t, there))
        assert torch.equal(blind(x, t, here), blind(x, t, there))
        z = torch.randn(1, 3, 8, 8)
        assert not torch.allclose(slices(z, t, here[:, 0]), slices(z, t, there[:, 0]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MaskDenoiser(6, 4, [8, 16], network="theirs"), "network is 'theirs'"),
        (lambda: MaskDenoiser(6, 4, [8, 16], options=OPTIONS), "network is 'own' with"),
        (lambda: MaskDenoiser(6, 4, [8, 16], position="none"), "position is 'none'"),
        (lambda: MaskDenoiser(6, 4, [8, 16], network="monai"), "makes no network"),
        (
            lambda: MaskDenoiser(6, 4, [8, 16], slice_mode="2p1d", network="monai"),
            "use slice_mode channels",
        ),
        (
            lambda: MaskDenoiser(6, 4, [8, 16], unshuffle=2, network="monai", options=OPTIONS),
            "with unshuffle, which it does not know",
        ),
        (lambda: SliceGenerator(3, network="theirs"), "network is 'theirs'"),
        (lambda: ViewDenoisers(6, network="theirs"), "network is 'theirs'"),
        (lambda: ViewDenoisers(6, network="monai", channels=[10]), "makes no network"),
    ],
)
def test_networks_that_cannot_be_say_so(make: Any, says: str) -> None:
    with pytest.raises(MedpairError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)
