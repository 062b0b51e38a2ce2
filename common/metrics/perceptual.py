"""LPIPS between generated images and the real scans of the same masks, where its tools are there.

N slices, H, W slice size.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.errors import MedpairError
from common.metrics.extractors import HUB, Features, downloaded, views
from common.metrics.values import Value, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
SliceDistance = Callable[[Tensor, Tensor], Tensor]
"""Distances (N,) of slices (N, 1, H, W) in [-1, 1]."""

SMALLEST = 31
"""Smallest side in pixels that AlexNet's two poolings leave something of."""


class Lpips:
    """LPIPS 0.1 with AlexNet, whose trunk comes from a file.

    Args:
        network: the package's network.

    Source:
        Zhang et al. 2018 (1801.03924).
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    @torch.inference_mode()
    def __call__(self, a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
        """Return the distances (N,) of slices (N, 1, H, W) in [-1, 1]; 0 for equal ones."""
        found: Tensor = self.network(a_NCHW.expand(-1, 3, -1, -1), b_NCHW.expand(-1, 3, -1, -1))
        return found.flatten()


def open_lpips(path: str | Path | None) -> Lpips | str:
    """Open LPIPS; nothing is downloaded unless that is asked for.

    Args:
        path: state dict of torchvision's AlexNet, or "hub" to download it; the package itself holds
            the layers on top.

    Returns:
        The distance, or "not computed: ..." without a path or the package, or if a download fails.

    Raises:
        MedpairError: if the file is missing, damaged, or of another network.
    """
    if path is None:
        return not_computed("no AlexNet weights are given for LPIPS")
    try:
        from lpips import LPIPS
    except ImportError:
        return not_computed("the package lpips is not installed; pip install medpair[perceptual]")
    if str(path) == HUB:
        found = downloaded("AlexNet", lambda: _quiet(LPIPS, pnet_rand=False))
        return found if isinstance(found, str) else Lpips(found)
    path = Path(path)
    if not path.is_file():
        raise MedpairError(f"{path}: no such weight file; correct the path or give none")
    network = _quiet(LPIPS, pnet_rand=True)
    try:
        network.get_submodule("net").load_state_dict(
            trunk(torch.load(path, map_location="cpu", weights_only=True))
        )
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise MedpairError(
            f"{path}: no state dict of torchvision's AlexNet ({reason}); give that file"
        ) from error
    return Lpips(network)


def _quiet(package: Callable[..., nn.Module], *, pnet_rand: bool) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by a deprecated argument
        return package(net="alex", pnet_rand=pnet_rand, verbose=False)


@torch.inference_mode()
def map_distance(features: Features, generated: Image, real: Image) -> float:
    """Return an LPIPS-type distance of two volumes on any network's feature maps.

    Features are scaled to unit length at every position; their squared difference is summed over
    the channels and averaged over the positions. LPIPS also weighs channels by human judgements,
    which there are none of for a network that is not AlexNet or VGG.

    Args:
        features: gives a feature map (V, C, d, h, w) of images (V, D, H, W) in [-1, 1].
        generated: (D, H, W) image, normalised intensities (0..1, clipped).
        real: (D, H, W) real scan in the same unit.

    Returns:
        0 for equal volumes, at most 4.

    Source:
        Zhang et al. 2018 (1801.03924), eq. 1 with w = 1, on one layer.
    """
    pair = np.stack([generated, real]).clip(0, 1)
    a, b = nn.functional.normalize(features(torch.from_numpy(2 * pair - 1).float()), dim=1)
    return float((a - b).square().sum(dim=0).mean())


def trunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename AlexNet's ``features.<layer>`` to the package's ``slice<n>.<layer>``.

    Args:
        state: state dict of torchvision's AlexNet; the classifier is left out.
    """
    ends = (2, 5, 8, 10, 12)  # the package cuts the layers after each of five ReLUs
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"features\.(\d+)\.(\w+)", key)
        if match:
            layer = int(match[1])
            part = 1 + sum(layer >= end for end in ends)
            renamed[f"slice{part}.{layer}.{match[2]}"] = value
    return renamed


def paired_lpips(
    metric: SliceDistance | str, generated: Image, real: Image, label: LabelMap, slice_axis: str
) -> dict[str, Value]:
    """Compare one generated image with the real scan of the same mask, slice by slice.

    Args:
        metric: from `open_lpips`; a reason is passed on.
        generated: (D, H, W) image, normalised intensities (0..1, clipped).
        real: (D, H, W) real scan in the same unit.
        label: (D, H, W) uint8 label map; slices without any label are left out.
        slice_axis: "AP" or "SI", the direction of D.

    Returns:
        Per view ("A", "C", "S") the mean over its slices, >= 0, or the reason.

    Raises:
        MedpairError: if the shapes differ.
    """
    if not generated.shape == real.shape == label.shape or real.ndim != 3:
        raise MedpairError(
            f"image: shapes {generated.shape}, real {real.shape}, label {label.shape}, one (D, H, "
            "W) wanted; generate for the real label map on its own grid"
        )
    pair = [torch.from_numpy(2 * np.clip(x, 0, 1) - 1).float() for x in (generated, real)]
    found: dict[str, Value] = {}
    for axis, view in enumerate(views(slice_axis)):
        shown = label.any(axis=tuple(a for a in range(3) if a != axis))
        keep = torch.from_numpy(np.flatnonzero(shown))
        slices = [x.index_select(axis, keep).movedim(axis, 0)[:, None] for x in pair]
        found[view] = metric if isinstance(metric, str) else _mean(metric, *slices)
    return found


def _mean(metric: SliceDistance, generated: Tensor, real: Tensor) -> Value:
    if not len(real):
        return not_computed("the mask is empty")
    height, width = real.shape[-2:]
    if min(height, width) < SMALLEST:
        return not_computed(f"slices of {height}x{width} are too small, {SMALLEST} wanted")
    return float(metric(generated, real).mean())
