"""Networks of others: names, files, downloads that fail, MedicalNet as it was trained."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from common.errors import MedpairError
from common.metrics.backbones import (
    BACKBONES,
    VolumeNetwork,
    medicalnet_of_file,
    open_backbones,
)

SIZE = (16, 18, 20)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random(SIZE).astype(np.float32)


@pytest.fixture
def label() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[4:7, 5:9, 6:11] = 1
    return mask


class Means(nn.Module):
    """The mean of each channel of slices (N, 3, size, size)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "means.pt"
    torch.jit.save(torch.jit.trace(Means(), torch.zeros(1, 3, 8, 8)), str(path))
    return path


def test_without_weights_every_network_says_so() -> None:
    found = open_backbones({"inception": None, "medicalnet": {}})
    assert found == {name: f"not computed: no weights of {name} are given" for name in BACKBONES}


def test_names_and_options_are_checked() -> None:
    with pytest.raises(MedpairError, match="'dino' is unknown, wanted radimagenet, inception"):
        open_backbones({"dino": {"weights": "x"}})
    with pytest.raises(MedpairError, match="medicalnet has no option 'size'; wanted weights"):
        open_backbones({"medicalnet": {"size": 3}})
    with pytest.raises(MedpairError, match="no such weight file"):
        open_backbones({"radimagenet": {"weights": "/no/file.pt"}})


def test_each_network_sees_the_intensities_that_it_was_trained_with(script) -> None:
    found = open_backbones(
        {
            "radimagenet": {"weights": script, "size": 8},
            "inception": {"weights": script, "size": 8},
        }
    )
    ones, means = np.ones((16, 16, 16), np.float32), {}
    for name in ("radimagenet", "inception"):
        extractor = found[name]
        assert not isinstance(extractor, str)
        assert extractor.name == name
        means[name] = extractor(ones, ones.astype(np.uint8), "AP")["A"][0]
    np.testing.assert_allclose(means["radimagenet"], 1 - np.array([0.406, 0.456, 0.485]), atol=1e-5)
    np.testing.assert_allclose(means["inception"], np.ones(3), atol=1e-5)


def test_a_download_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__) -> nn.Module:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "load", refuse)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    found = open_backbones({name: {"weights": "hub"} for name in BACKBONES})
    assert found["radimagenet"] == (
        "not computed: the download of radimagenet fails (<urlopen error no route>); give weights "
        "by path"
    )
    assert "no route" in str(found["medicalnet"])
    assert "the download of inception fails" in str(found["inception"])


def test_a_download_is_used(monkeypatch: pytest.MonkeyPatch, image, label) -> None:
    asked: list[str] = []

    def load(repository: str, model: str, **_) -> nn.Module:
        asked.append(model)
        return nn.AdaptiveAvgPool3d(2) if "medicalnet" in model else Means()

    monkeypatch.setattr(torch.hub, "load", load)
    found = open_backbones({n: {"weights": "hub"} for n in ("radimagenet", "medicalnet")})
    assert asked == ["radimagenet_resnet50", "medicalnet_resnet50_23datasets"]
    volume = found["medicalnet"]
    assert not isinstance(volume, str)
    rows = volume(image, label, "AP")
    assert rows["3D"].shape == (1, 1)
    assert abs(rows["3D"]).max() < 0.1  # volumes are normalised to mean 0


def test_inception_wants_torchvision_for_a_state_dict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image, label
) -> None:
    network = nn.Sequential()
    network.fc = nn.Linear(3, 2)
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    given = {"inception": {"weights": tmp_path / "inception.pth", "size": 8}}
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert "needs torchvision" in str(open_backbones(given)["inception"])

    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    with monkeypatch.context() as patch:  # a package of another release of torch
        patch.setattr(importlib, "import_module", broken)
        reason = str(open_backbones(given)["inception"])
    assert reason.startswith(
        "not computed: a state dict of Inception-v3 needs torchvision (operator"
    )

    class Tiny(Means):
        def __init__(self) -> None:
            super().__init__()
            self.fc: nn.Module = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(super().forward(x))

    fake = SimpleNamespace(inception_v3=lambda weights, init_weights: Tiny())
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)
    opened = open_backbones(given)["inception"]
    assert not isinstance(opened, str)
    assert opened(image, label, "AP")["C"].shape == (3, 3)  # features before the last layer
    torch.save({"other": torch.zeros(1)}, tmp_path / "inception.pth")
    with pytest.raises(MedpairError, match="neither TorchScript nor a Inception-v3 state dict"):
        open_backbones(given)


@pytest.fixture(scope="module")
def medicalnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a 3D ResNet-10 in the authors' form."""
    torch.manual_seed(0)
    network = ResNet(
        "basic", [1, 1, 1, 1], [64, 128, 256, 512], 3, 1,
        conv1_t_stride=2, feed_forward=False, bias_downsample=False,
    )  # fmt: skip
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "resnet_10.pth"
    torch.save({"state_dict": state}, path)
    return path


def test_medicalnet_keeps_resolution_after_its_second_level(medicalnet: Path) -> None:
    network = medicalnet_of_file(medicalnet)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape)})
        )
    with torch.no_grad():
        found = network.eval()(torch.rand(1, 1, 32, 32, 32))
    assert [shapes[f"layer{n}"][1:3] for n in range(1, 5)] == [
        (64, 8),
        (128, 4),
        (256, 4),
        (512, 4),
    ]
    assert found.shape == (1, 512)
    assert network.get_submodule("layer4.0.conv1").dilation == (4, 4, 4)


def test_a_volume_is_one_sample_and_a_flat_one_has_finite_features(
    medicalnet: Path, image, label
) -> None:
    extractor = open_backbones({"medicalnet": {"weights": medicalnet}})["medicalnet"]
    assert isinstance(extractor, VolumeNetwork)
    rows = extractor(image, label, "AP")
    assert {view: values.shape for view, values in rows.items()} == {"3D": (1, 512)}
    brighter = extractor(image * 0.5 + 0.2, label, "AP")["3D"]
    np.testing.assert_allclose(brighter, rows["3D"], rtol=1e-2, atol=1e-4)
    flat = extractor(np.full(SIZE, 0.5, np.float32), np.zeros_like(label), "AP")["3D"]
    assert np.isfinite(flat).all()
    other = medicalnet.with_name("other.pth")
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, other)
    with pytest.raises(MedpairError, match="nor a MedicalNet state dict"):
        open_backbones({"medicalnet": {"weights": other}})
