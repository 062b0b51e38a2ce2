"""Classical reference flow between neighbouring slices of real scans, computed once and cached.

D, C, H, W volume. A flow of slice z in a direction of travel says where each of its pixels lies in
the slice before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from skimage.registration import optical_flow_ilk, optical_flow_tvl1
from torch import Tensor

from common.errors import MedpairError
from common.io.atomic import atomic_path
from vid2vid.warp import warp

Array = npt.NDArray[np.float32]
METHODS: dict[str, Callable[..., Array]] = {"tvl1": optical_flow_tvl1, "ilk": optical_flow_ilk}
TRUSTED_ERROR = 0.02


@dataclass(frozen=True)
class ReferenceFlow:
    """The flows of a volume for both directions of travel.

    Args:
        up: (D, 2, H, W) from slice z to z - 1, pixels, rows and columns; zero at z = 0.
        down: the same to slice z + 1; zero at z = D - 1.
        up_weight: (D, 1, H, W), 1 where the warped neighbour explains the slice, else 0.
        down_weight: the same for `down`.
    """

    up: Tensor
    down: Tensor
    up_weight: Tensor
    down_weight: Tensor

    def travelling(self, reverse: bool) -> tuple[Tensor, Tensor]:
        """Return flow and weight for travel to higher slices, or to lower ones if ``reverse``."""
        return (self.down, self.down_weight) if reverse else (self.up, self.up_weight)


def reference_flow(image_DCHW: Tensor, method: str) -> ReferenceFlow:
    """Compute the flows between all neighbouring slices.

    Args:
        image_DCHW: volume in [-1, 1]; the mean over channels is used.
        method: "tvl1" or "ilk" of scikit-image.

    Returns:
        Flows and their confidence: squared warping error below 0.02 of the squared range.

    Raises:
        MedpairError: for another method.

    Source: Vid2Vid (1808.06601) supplement, with a classical flow in the place of FlowNet2.
    """
    if method not in METHODS:
        raise MedpairError(f"flow_reference is {method!r}; want one of {sorted(METHODS)} or null")
    gray = image_DCHW.mean(dim=1).numpy()
    up = _directed(gray, np.roll(gray, 1, axis=0), method)
    down = _directed(gray, np.roll(gray, -1, axis=0), method)
    up[0], down[-1] = 0, 0
    weights = []
    for field, shift, edge in ((up, 1, 0), (down, -1, -1)):
        error = (warp(image_DCHW.roll(shift, 0), field) - image_DCHW).square().mean(1, keepdim=True)
        weight = (error / 4 < TRUSTED_ERROR).float()
        weight[edge] = 0
        weights.append(weight)
    return ReferenceFlow(up, down, *weights)


def _directed(slices: Array, neighbours: Array, method: str) -> Tensor:
    flows = [METHODS[method](a, b) for a, b in zip(slices, neighbours, strict=True)]
    return torch.from_numpy(np.stack(flows).astype(np.float32))


def cached_flows(
    images_DCHW: Sequence[Tensor], method: str | None, cache_dir: str
) -> list[ReferenceFlow]:
    """Return the reference flow of each volume, read from or written to ``cache_dir``.

    Args:
        images_DCHW: volumes in [-1, 1].
        method: "tvl1", "ilk", or None for no reference.
        cache_dir: folder of the cached flows; names carry the hash of image and method.

    Returns:
        One flow per volume; an empty list without a method.
    """
    if method is None:
        return []
    return [_cached(image, method, Path(cache_dir)) for image in images_DCHW]


def _cached(image: Tensor, method: str, folder: Path) -> ReferenceFlow:
    key = hashlib.sha256(image.numpy().tobytes())
    key.update(f"{tuple(image.shape)} {method} {version('scikit-image')} 1".encode())
    path = folder / f"flow-{key.hexdigest()[:32]}.npz"
    names = ("up", "down", "up_weight", "down_weight")
    if path.is_file():
        with np.load(path) as stored:
            return ReferenceFlow(*(torch.from_numpy(np.float32(stored[n])) for n in names))
    flow = reference_flow(image, method)
    with atomic_path(path) as temporary:
        halves = {n: np.float16(getattr(flow, n).numpy()) for n in names}
        np.savez_compressed(temporary, allow_pickle=False, **halves)
    return _cached(image, method, folder)
