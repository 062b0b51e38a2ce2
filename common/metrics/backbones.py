"""Networks of others that see images, by name: RadImageNet, Inception-v3, MedicalNet.

N slices, V volumes, C channels, D, H, W volume size, F features.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from monai.networks.nets import resnet
from torch import Tensor, nn

from common.errors import MedpairError
from common.metrics.extractors import (
    HUB,
    Floats,
    Image,
    LabelMap,
    SliceExtractor,
    SliceNetwork,
    downloaded,
    open_network,
    open_slice_network,
)
from common.metrics.values import not_computed

Opened = SliceExtractor | str
Device = str | torch.device

REPOSITORY = "Project-MONAI/perceptual-models:main"
BGR_MEANS = (0.406, 0.456, 0.485)
DILATIONS = {"layer3": 2, "layer4": 4}
"""MedicalNet's last two levels keep the resolution and see further instead."""


class _NoTorchvisionError(RuntimeError):
    """The package is missing, or belongs to another release of torch."""


class VolumeNetwork:
    """Features of whole volumes, one sample each, from a 3D network.

    Images are normalised to mean 0 and deviation 1 as MedicalNet wants it; a feature map is
    averaged over the volume.

    Args:
        network: gives (V, F) or (V, F, d, h, w) of (V, 1, D, H, W).
        name: its name.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        self.network, self.name = network.eval(), name

    @torch.inference_mode()
    def __call__(
        self,
        image: Image,
        label: LabelMap,  # noqa: ARG002 - called as `SliceExtractor`
        slice_axis: str,  # noqa: ARG002
    ) -> dict[str, Floats]:
        """Return the features (1, F) as the only view, "3D".

        Args:
            image: (D, H, W) image, normalised intensities (0..1, clipped).
            label: not used: the volume is one sample whatever its mask holds.
            slice_axis: not used.
        """
        volume = torch.from_numpy(np.clip(image, 0, 1)).float()
        deviation = float(volume.std())
        unit = (volume - volume.mean()) / (deviation or 1.0)  # a flat image stays flat: all 0
        parameter = next(self.network.parameters(), unit)
        found: Tensor = self.network(unit[None, None].to(parameter.device)).cpu()
        pooled = found.flatten(2).mean(2) if found.ndim > 2 else found
        return {"3D": pooled.double().numpy()}


def open_backbones(
    options: Mapping[str, Mapping[str, Any] | None], device: Device = "cpu"
) -> dict[str, Opened]:
    """Open the named networks.

    Args:
        options: per name of `BACKBONES` ``weights`` (a file, "hub" for a download, or None) and
            options of `SliceNetwork` (size, mean, std, batch); names that are missing have no
            weights.
        device: where they run.

    Returns:
        Per name the extractor, or "not computed: ..." where weights are missing.

    Raises:
        MedpairError: for an unknown name or option, or a file that is missing or of another
            network.
    """
    unknown = sorted(set(options) - set(BACKBONES))
    if unknown:
        raise MedpairError(
            f"backbones: {unknown[0]!r} is unknown, wanted {', '.join(BACKBONES)}; correct the name"
        )
    return {name: _open(name, dict(options.get(name) or {}), device) for name in BACKBONES}


def _open(name: str, options: dict[str, Any], device: Device) -> Opened:
    weights = options.pop("weights", None)
    allowed = () if name == "medicalnet" else ("size", "mean", "std", "batch")
    wrong = sorted(set(options) - set(allowed))
    if wrong:
        wanted = ", ".join(("weights", *allowed))
        raise MedpairError(f"backbones: {name} has no option {wrong[0]!r}; wanted {wanted}")
    if weights is None:
        return not_computed(f"no weights of {name} are given")
    return BACKBONES[name](str(weights), device, options)


def _radimagenet(weights: str, device: Device, options: Mapping[str, Any]) -> Opened:
    settings = {"mean": BGR_MEANS, "std": (1.0, 1.0, 1.0), **options}
    if weights != HUB:
        return open_slice_network(weights, "radimagenet", device, **settings)
    network = downloaded("radimagenet", lambda: _from_hub("radimagenet_resnet50"))
    if isinstance(network, str):
        return network
    return SliceNetwork(network.to(device), "radimagenet", **settings)


def _inception(weights: str, device: Device, options: Mapping[str, Any]) -> Opened:
    settings = {"size": 299, "mean": (0.5,) * 3, "std": (0.5,) * 3, **options}
    if weights == HUB:
        network = downloaded("inception", _inception_from_hub)
        if isinstance(network, str):
            return network
        return SliceNetwork(network.to(device), "inception", **settings)
    try:
        return open_slice_network(
            weights, "inception", device, _inception_of_file, "Inception-v3", **settings
        )
    except MedpairError as error:
        if isinstance(error.__cause__, _NoTorchvisionError):
            return not_computed(
                f"a state dict of Inception-v3 needs torchvision ({error.__cause__}); pip install "
                "medpair[perceptual], or give TorchScript"
            )
        raise


def _medicalnet(weights: str, device: Device, options: Mapping[str, Any]) -> Opened:
    assert not options
    network: nn.Module | str
    if weights == HUB:
        network = downloaded("medicalnet", lambda: _from_hub("medicalnet_resnet50_23datasets"))
    else:
        network = open_network(weights, medicalnet_of_file, "MedicalNet")
    return network if isinstance(network, str) else VolumeNetwork(network.to(device), "medicalnet")


def _from_hub(model: str) -> nn.Module:
    network: nn.Module = torch.hub.load(REPOSITORY, model=model, verbose=False, trust_repo=True)
    return network


def _torchvision_models() -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError, AttributeError) as error:  # the latter two: of another torch
        raise _NoTorchvisionError(" ".join(str(error).split())[:80]) from error


def _inception_from_hub() -> nn.Module:
    models = _torchvision_models()
    chosen = models.Inception_V3_Weights.IMAGENET1K_V1
    return _inception_network(chosen.get_state_dict(progress=False))


def _inception_of_file(path: Path) -> nn.Module:
    return _inception_network(torch.load(path, map_location="cpu", weights_only=True))


def _inception_network(state: Mapping[str, Tensor]) -> nn.Module:
    """Return torchvision's Inception-v3 up to the 2048 features before its last layer."""
    models = _torchvision_models()
    network: nn.Module = models.inception_v3(weights=None, init_weights=False)
    network.load_state_dict(state)
    network.fc = nn.Identity()
    return network


def medicalnet_of_file(path: Path) -> nn.Module:
    """Open the authors' state dict of a 3D ResNet with 1 x 1 x 1 shortcuts (10, 50, 101 ...).

    Args:
        path: such as ``resnet_50_23dataset.pth``; depth and block are read from its names.

    Source:
        Chen et al. 2019 (1904.00625).
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = {k.removeprefix("module."): v for k, v in content.get("state_dict", content).items()}
    found = [re.match(r"(layer[1-4])\.(\d+)\.", key) for key in state]
    blocks = {(match[1], int(match[2])) for match in found if match}
    network = resnet.ResNet(
        "bottleneck" if "layer1.0.conv3.weight" in state else "basic",
        [sum(layer == f"layer{n}" for layer, _ in blocks) for n in range(1, 5)],
        [64, 128, 256, 512],
        n_input_channels=1,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    network.load_state_dict(state)
    return _dilated(network)


def _dilated(network: nn.Module) -> nn.Module:
    """Give the last two levels stride 1 and dilation, as MedicalNet was trained."""
    for name, dilation in DILATIONS.items():
        for module in network.get_submodule(name).modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.dilation = module.padding = (dilation,) * 3
    return network


BACKBONES: Mapping[str, Callable[[str, Device, Mapping[str, Any]], Opened]] = {
    "radimagenet": _radimagenet,
    "inception": _inception,
    "medicalnet": _medicalnet,
}
"""What opens each network."""
