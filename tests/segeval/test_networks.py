from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.networks.nets import UNet
from torch import nn

from common.bundles import bundles_dir
from common.engines.weights import save_weights
from common.errors import MedpairError
from segeval.callables import Features
from segeval.inferers import PaddedInferer
from segeval.networks import (
    ARCHITECTURES,
    build_network,
    feature_layer,
    load_network,
    multiple_of,
    place,
    start_network,
)

BUNDLE = bundles_dir() / "segmentation_eval"
PRESETS = sorted(path.stem for path in (BUNDLE / "presets").glob("*.yaml"))
SMALL: dict[str, dict[str, Any]] = {
    "unet3d": {"channels": [4, 6, 8], "strides": [1, 2]},
    "unet2d": {"channels": [4, 6, 8], "strides": [1, 2]},
    "unetr": {
        "img_size": [16, 16, 16],
        "feature_size": 2,
        "hidden_size": 12,
        "mlp_dim": 12,
        "num_heads": 2,
    },
    "swin_unetr": {
        "feature_size": 12,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "norm_name": ["group", {"num_groups": 4}],
    },
}
SIZE = (14, 13, 12)


def network(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    return build_network(architecture, 3, SMALL)


def inferer(architecture: str) -> PaddedInferer:
    return PaddedInferer(multiple_of(architecture, SMALL), "fp32")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_labels_every_voxel_and_gives_maps(architecture: str) -> None:
    made = place(network(architecture), "cpu").eval()
    images = torch.rand(1, *SIZE) * 2 - 1
    logits = inferer(architecture)((images[:, None] + 1) / 2, made)
    assert logits.shape == (1, 3, *SIZE)
    assert float(logits.detach().std()) > 0
    maps = Features(made, inferer(architecture), feature_layer(architecture))(images)
    halves = [SIZE[0] if architecture == "unet2d" else 7, 7, 6]
    assert list(maps.shape[2:]) == halves


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_learns(architecture: str) -> None:
    """Where bright is class 1, two steps lower the loss."""
    made = network(architecture).train()
    image = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    label = (image[:, 0] > 0.5).long()
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(inferer(architecture)(image, made), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_the_3d_unet_is_that_of_the_weights_that_ship() -> None:
    config = ConfigParser.load_config_file(str(BUNDLE / "configs" / "inference.yaml"))
    made = build_network("unet3d", 6, config["sizes"])
    torch.manual_seed(0)
    norm = ("group", {"num_groups": 2})
    options = {"num_res_units": 2, "act": "LEAKYRELU", "norm": norm}
    old = UNet(3, 1, 6, [16, 48, 96, 128], [1, 2, 2], **options)
    torch.manual_seed(0)
    new = build_network("unet3d", 6, config["sizes"])
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    path = str(BUNDLE / "models" / "model.pt")
    load_network(made, path, "unet3d", "brain4", "tiny")
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(value.half(), state[key]) for key, value in made.state_dict().items())


def test_the_2d_unet_sees_slices_alone() -> None:
    made = network("unet2d").eval()
    images = torch.rand(2, 1, 5, 8, 8)
    logits = made(images)
    assert torch.allclose(logits[1:, :, 2:3], made(images[1:, :, 2:3]), atol=1e-6)
    other = images.clone()
    other[:, :, 3] = 0
    changed = (made(other) != logits).any(dim=(1, 3, 4))
    assert changed.tolist() == [[False, False, False, True, False]] * 2


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_preset_has_every_network(preset: str, architecture: str) -> None:
    files = [BUNDLE / "configs" / "train.yaml", BUNDLE / "presets" / f"{preset}.yaml"]
    sizes = ConfigParser.load_config_files(files)["sizes"]
    if architecture != "swin_unetr" or preset == "tiny":  # which reads values as it is built
        with torch.device("cpu" if architecture == "swin_unetr" else "meta"):
            made = build_network(architecture, 6, sizes)
        millions = sum(p.numel() for p in made.parameters()) / 1e6
        assert 0.5 < millions < {"tiny": 10, "small": 40}.get(preset, 130)
    brain = {"tiny": (48, 40, 40), "small": (96, 80, 80), "base": (192, 160, 160)}[preset]
    padded = PaddedInferer(multiple_of(architecture, sizes)).padded(brain)
    assert all(n <= p < n + 32 for n, p in zip(brain, padded, strict=True))


def test_multiples_follow_the_architecture() -> None:
    found = {name: multiple_of(name, SMALL) for name in ARCHITECTURES}
    assert found == {"unet3d": 2, "unet2d": [1, 2, 2], "unetr": [16, 16, 16], "swin_unetr": 32}


@pytest.mark.parametrize(
    ("architecture", "sizes", "message"),
    [
        ("resnet", SMALL, r"architecture: 'resnet' is unknown; choose unet3d, unet2d, unetr, swin"),
        ("unetr", {"unet3d": {}}, r"sizes: none for 'unetr'; add sizes#unetr"),
        ("unetr", {"unetr": {"img_size": [16, 16, 20]}}, r"sizes#unetr: .*multiples of 16"),
        ("swin_unetr", {"swin_unetr": {"feature_size": 10}}, r"sizes#swin_unetr: .*divisible by"),
        ("unet3d", {"unet3d": {"chanels": [2, 4]}}, r"sizes#unet3d: .*makes no network"),
        ("unet2d", {"unet2d": {"channels": [2, 4]}}, r"sizes#unet2d: .*strides"),
    ],
)
def test_what_makes_no_network_is_named(
    architecture: str, sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedpairError, match=message) as error:
        build_network(architecture, 3, sizes)
    assert "\n" not in str(error.value)


def test_a_multiple_without_strides_is_named() -> None:
    with pytest.raises(MedpairError, match=r"sizes#unet2d: .* lacks 'strides'; add it"):
        multiple_of("unet2d", {"unet2d": {"channels": [2, 4]}})


@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_any_number_of_classes_makes_a_unet(num_classes: int) -> None:
    for architecture in ("unet3d", "unet2d"):
        made = build_network(architecture, num_classes, SMALL)
        assert made(torch.rand(1, 1, 4, 4, 4)).shape == (1, num_classes, 4, 4, 4)


def test_volumes_that_unetr_cannot_take_are_named() -> None:
    with pytest.raises(MedpairError, match=r"padded size \(32, 16, 16\), this UNETR was made for"):
        inferer("unetr")(torch.rand(1, 1, 17, 16, 16), network("unetr"))
    windows = PaddedInferer([16, 16, 16], "fp32", [16, 16, 16])
    logits = windows(torch.rand(1, 1, 40, 12, 17), network("unetr").eval())
    assert logits.shape == (1, 3, 40, 12, 17)


def test_volumes_too_small_for_instance_normalisation_are_named() -> None:
    sizes = {"swin_unetr": {**SMALL["swin_unetr"], "norm_name": "instance"}}
    made = build_network("swin_unetr", 3, sizes)
    with pytest.raises(MedpairError, match=r"\(32, 32, 32\), which Swin-UNETR cannot .*norm_name"):
        inferer("swin_unetr")(torch.rand(1, 1, 16, 16, 16), made)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_weights(network("unet2d"), path, {"architecture": "unet2d", "schema": "brain4"})
    loaded = load_network(network("unet2d"), str(path), "unet2d", "brain4")
    assert not loaded.training
    wanted = r"model\.pt: weights of architecture 'unet2d', wanted 'unet3d'; use --architecture u"
    with pytest.raises(MedpairError, match=wanted) as error:
        start_network(network("unet3d"), "cpu", "unet3d", "brain4", str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(MedpairError, match=r"weights of schema 'brain4', wanted 'thorax7'"):
        start_network(network("unet2d"), "cpu", "unet2d", "thorax7", str(path))


def test_a_card_without_architecture_means_the_3d_unet(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_weights(network("unet3d"), path, {"schema": "brain4", "preset": "tiny"})
    load_network(network("unet3d"), str(path), "unet3d", "brain4", "tiny")
    with pytest.raises(MedpairError, match="weights of architecture 'unet3d', wanted 'unetr'"):
        load_network(network("unetr"), str(path), "unetr", "brain4", "tiny")


def test_old_cards_are_those_of_the_weights_that_ship() -> None:
    card = yaml.safe_load((BUNDLE / "models" / "model.json").read_text(encoding="utf-8"))
    assert card.get("architecture", "unet3d") == "unet3d"
