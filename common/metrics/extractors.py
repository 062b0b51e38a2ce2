"""Feature extractors: what turns the slices of a volume into vectors, in three views.

V volumes, C channels, D, H, W volume size, d, h, w size of a feature map; N slices, F features.
"""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.networks.nets import resnet50
from torch import Tensor, nn

from common.data.views import triple_to_dhw
from common.errors import MedpairError
from common.metrics.values import not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Features = Callable[[Tensor], Tensor]
"""Feature map (V, C, d, h, w) of images (V, D, H, W) in [-1, 1]."""

HUB = "hub"
"""Stands for a download where a path stands for a file."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_RADIMAGENET = {"0": "conv1", "1": "bn1", **{str(n + 3): f"layer{n}" for n in range(1, 5)}}


class SliceExtractor(Protocol):
    """An extractor with a name, which is part of every number made with it."""

    name: str

    def __call__(self, image: Image, label: LabelMap, slice_axis: str) -> dict[str, Floats]:
        """Return the features (N, F) of the slices with foreground, per view "S", "C", "A".

        Args:
            image: (D, H, W) image, normalised intensities (0..1, clipped).
            label: (D, H, W) uint8 label map.
            slice_axis: "AP" or "SI", the direction of D.
        """


class MapExtractor:
    """Features of slices from a network that sees whole volumes.

    A feature map is averaged over each plane: its positions along an axis are the slices of that
    view. Positions whose slices hold no foreground are left out.

    Args:
        features: gives a feature map (V, C, d, h, w) of images (V, D, H, W) in [-1, 1].
        name: its name.
    """

    def __init__(self, features: Features, name: str) -> None:
        self.features, self.name = features, name

    @torch.inference_mode()
    def __call__(self, image: Image, label: LabelMap, slice_axis: str) -> dict[str, Floats]:
        """Return the features per view, see `SliceExtractor`."""
        volume = torch.from_numpy(2 * np.clip(image, 0, 1) - 1).float()
        found = self.features(volume[None])
        if found.ndim != 5 or len(found) != 1:
            raise MedpairError(
                f"features: {self.name} gives {tuple(found.shape)}, (1, C, d, h, w) wanted; give a "
                "callable that keeps three axes"
            )
        map_CDHW = found[0].cpu().double()
        rows = {}
        for axis, view in enumerate(views(slice_axis)):
            others = _others(axis)
            pooled_NF = map_CDHW.mean(dim=[a + 1 for a in others]).T
            shown = torch.from_numpy(label.any(axis=others)).float()
            keep = F.adaptive_max_pool1d(shown[None], len(pooled_NF))[0] > 0
            rows[view] = pooled_NF[keep].numpy()
        return rows


class SliceNetwork:
    """Features of slices from a network that sees single slices, such as Inception or ResNet-50.

    Slices are padded to squares, resized, repeated to three channels and normalised; a network's
    feature map is averaged over the plane.

    Args:
        network: gives (N, F) or (N, F, h, w) of (N, 3, size, size).
        name: its name.
        size: side that it wants in pixels.
        mean: subtracted per channel from values in [0, 1].
        std: divided by per channel.
        batch: slices per call.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        size: int = 224,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        batch: int = 32,
    ) -> None:
        self.network, self.name, self.size, self.batch = network.eval(), name, size, batch
        self.mean, self.std = (torch.tensor(x).view(1, 3, 1, 1) for x in (mean, std))

    def __call__(self, image: Image, label: LabelMap, slice_axis: str) -> dict[str, Floats]:
        """Return the features per view, see `SliceExtractor`."""
        rows = {}
        for axis, view in enumerate(views(slice_axis)):
            keep = np.flatnonzero(label.any(axis=_others(axis)))
            rows[view] = self.of_slices(np.moveaxis(image, axis, 0)[keep])
        return rows

    @torch.inference_mode()
    def of_slices(self, slices_NHW: Image) -> Floats:
        """Return the features (N, F) of single slices, normalised intensities (0..1, clipped)."""
        slices = torch.from_numpy(np.clip(slices_NHW, 0, 1).astype(np.float32))
        parts = [self._forward(part) for part in slices.split(self.batch)]
        return torch.cat(parts).double().numpy()

    def _forward(self, slices_NHW: Tensor) -> Tensor:
        height, width = slices_NHW.shape[1:]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = F.pad(slices_NHW, (left, side - width - left, top, side - height - top))
        sized = F.interpolate(square[:, None], (self.size,) * 2, mode="bilinear", antialias=True)
        parameter = next(self.network.parameters(), self.mean)
        found: Tensor = self.network(((sized - self.mean) / self.std).to(parameter.device)).cpu()
        return found.mean(dim=(2, 3)) if found.ndim == 4 else found


def views(slice_axis: str) -> tuple[str, str, str]:
    """Return the view whose slices follow each other along D, H and W: "A", "C" or "S"."""
    return triple_to_dhw(("S", "C", "A"), slice_axis)


def _others(axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(3) if a != axis)


def open_slice_network(
    path: str | Path | None,
    name: str | None = None,
    device: str | torch.device = "cpu",
    build: Callable[[Path], nn.Module] | None = None,
    kind: str = "ResNet-50",
    **options: Any,
) -> SliceNetwork | str:
    """Open a slice network's weights; nothing is downloaded.

    Args:
        path: a TorchScript file of any network, or a state dict; by default of ResNet-50 with the
            names of torchvision or of RadImageNet (``backbone.0.weight`` ...). None gives the
            reason.
        name: name in reports; the file's name by default.
        device: where it runs.
        build: opens a state dict of another network.
        kind: what that network is called.
        options: size, mean, std and batch of `SliceNetwork`. RadImageNet as MONAI uses it wants
            mean (0.406, 0.456, 0.485) and std (1, 1, 1).

    Returns:
        The extractor, or "not computed: ..." without a path.

    Raises:
        MedpairError: if the file is missing, damaged, or of another network.
    """
    if path is None:
        return not_computed("no weights of a slice network are given")
    network = open_network(path, build or _resnet, kind)
    return SliceNetwork(network.to(device), name or Path(path).stem, **options)


def open_network(path: str | Path, build: Callable[[Path], nn.Module], kind: str) -> nn.Module:
    """Open a TorchScript file of any network, or a state dict of a known one.

    Args:
        path: the file.
        build: opens a state dict.
        kind: what its network is called.

    Raises:
        MedpairError: if the file is missing, damaged, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise MedpairError(f"{path}: no such weight file; correct the path or give none")
    try:
        network: nn.Module = torch.jit.load(str(path)) if _is_script(path) else build(path)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise MedpairError(
            f"{path}: neither TorchScript nor a {kind} state dict ({reason}); give one of them"
        ) from error
    return network


def downloaded(name: str, fetch: Callable[[], nn.Module]) -> nn.Module | str:
    """Return what a download gives, or "not computed: ..." with the reason why it fails.

    Args:
        name: what is downloaded.
        fetch: downloads and opens it.
    """
    try:
        return fetch()
    except Exception as error:  # noqa: BLE001 - a download runs code of others, which raises anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        return not_computed(f"the download of {name} fails ({reason}); give weights by path")


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _resnet(path: Path) -> nn.Module:
    """Open MONAI's ResNet-50 in the shape of torchvision's: equal parameters, equal features."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    named = {_torchvision_name(key): value for key, value in state.items()}
    network: nn.Module = resnet50(
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        bias_downsample=False,
        feed_forward=False,
    )
    network.load_state_dict({k: v for k, v in named.items() if not k.startswith("fc.")})
    return network


def _torchvision_name(key: str) -> str:
    if not key.startswith("backbone."):
        return key
    _, stage, rest = key.split(".", 2)
    return f"{_RADIMAGENET.get(stage, stage)}.{rest}"
