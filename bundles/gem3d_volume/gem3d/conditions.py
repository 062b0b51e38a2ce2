"""What the volume network is told besides the noisy latents: masks and the informed slice.

B windows, S slices per window, K classes, M mask channels, C latent channels, H, W image size,
h, w latent size H / f, W / f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.checks import check_labels
from common.errors import MedpairError
from gem3d.autoencoder import SliceAutoencoder

MaskCode = Literal["subpixel", "fractions", "grey"]
CODES = ("subpixel", "fractions", "grey")


@dataclass(frozen=True)
class MaskEncoding:
    """Masks on the latent grid.

    Args:
        num_classes: K, with background.
        factor: f, side of the block of voxels that one latent pixel stands for.
        code: "fractions": per class the share of the block's voxels (K channels);
            "subpixel": per class and voxel of the block whether it is there (K f^2 channels),
            which keeps borders where they are; "grey" (paper): the label as a grey level through
            the autoencoder (C channels).
        contour: add the share of voxels on the border of the foreground (body or brain).
        autoencoder: for "grey".

    Raises:
        MedpairError: for another code, or "grey" without an autoencoder.

    Source: GEM-3D §3.2 ("grey") and appendix A (contour).
    """

    num_classes: int
    factor: int
    code: MaskCode = "subpixel"
    contour: bool = True
    autoencoder: SliceAutoencoder | None = None

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise MedpairError(f"mask_code: {self.code!r}; want one of {', '.join(CODES)}")
        if self.code == "grey" and self.autoencoder is None:
            raise MedpairError("mask_code: 'grey' without autoencoder; name it in mask_encoding")

    @property
    def channels(self) -> int:
        """Number M of mask channels."""
        of_classes = {"fractions": 1, "subpixel": self.factor**2}
        if self.autoencoder is not None and self.code == "grey":
            return self.autoencoder.latent_channels + self.contour
        return self.num_classes * of_classes[self.code] + self.contour

    def __call__(self, label_BSHW: Tensor) -> Tensor:
        """Return the masks (B, S, M, h, w), float32.

        Args:
            label_BSHW: integer labels; H and W multiples of ``factor``.

        Raises:
            MedpairError: for labels outside 0..K-1.
        """
        check_labels(label_BSHW, self.num_classes)
        return self._encoded(label_BSHW)

    def of_volumes(self, label_VDHW: Tensor) -> VolumeMasks:
        """Return masks of whole volumes that are encoded where they are read, see `VolumeMasks`.

        Args:
            label_VDHW: as for `__call__`.

        Raises:
            MedpairError: as `__call__`.
        """
        check_labels(label_VDHW, self.num_classes)
        return VolumeMasks(label_VDHW, self)

    def _encoded(self, label_BSHW: Tensor) -> Tensor:
        label_NHW = label_BSHW.flatten(0, 1).long()
        maps = [self._grey(label_NHW) if self.code == "grey" else self._one_hot(label_NHW)]
        if self.contour:
            maps.append(F.avg_pool2d(border(label_NHW > 0).float()[:, None], self.factor))
        encoded: Tensor = torch.cat(maps, dim=1).unflatten(0, label_BSHW.shape[:2])
        return encoded

    def _one_hot(self, label_NHW: Tensor) -> Tensor:
        one_hot = F.one_hot(label_NHW, self.num_classes).movedim(-1, 1).float()
        if self.code == "fractions":
            return F.avg_pool2d(one_hot, self.factor)
        return F.pixel_unshuffle(one_hot, self.factor)

    def _grey(self, label_NHW: Tensor) -> Tensor:
        assert self.autoencoder is not None
        grey = label_NHW[:, None].float() / (self.num_classes - 1) * 2 - 1
        with torch.no_grad():
            encoded: Tensor = self.autoencoder.encode(grey)
        return encoded


@dataclass(frozen=True)
class VolumeMasks:
    """Encoded masks of whole volumes, of which only the slices that are asked for exist.

    Encoded, a volume takes as much memory as K volumes of float32; its labels take a byte each.

    Args:
        label_VDHW: labels; checked.
        encoding: how they are encoded.
    """

    label_VDHW: Tensor
    encoding: MaskEncoding

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(V, D, M, h, w)."""
        volumes, depth, height, width = self.label_VDHW.shape
        f = self.encoding.factor
        return volumes, depth, self.encoding.channels, height // f, width // f

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.label_VDHW.device

    def __len__(self) -> int:
        return len(self.label_VDHW)

    def __getitem__(self, place: tuple[int, Tensor]) -> Tensor:
        """Return the masks (S, M, h, w) of slices (S,) of a volume."""
        slot, index_S = place
        return self.encoding._encoded(self.label_VDHW[slot, index_S][None])[0]


def border(inside_NHW: Tensor) -> Tensor:
    """Return which voxels of a foreground (N, H, W) touch the outside over an edge in plane."""
    outside = F.pad((~inside_NHW).float(), (1, 1, 1, 1), value=1.0)[:, None]
    cross = outside.new_tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])[None, None]
    return inside_NHW & (F.conv2d(outside, cross)[:, 0] > 0)


def informed_maps(latent_BChw: Tensor) -> Tensor:
    """Return informed slices (B, C + 1, h, w): the latents and a channel of ones, "present".

    Zeros in all channels stand for "no informed slice".
    """
    return torch.cat([latent_BChw, torch.ones_like(latent_BChw[:, :1])], dim=1)


def check_scale(autoencoder: SliceAutoencoder, trained_with: nn.Module) -> None:
    """Raise MedpairError where a network was trained on latents of another scale.

    Args:
        autoencoder: the one at hand.
        trained_with: a network with the buffer ``latent_std`` of its own training.
    """
    # on the CPU: a network that waits for the export need not be on the autoencoder's device
    at_hand, wanted = autoencoder.latent_std.cpu(), trained_with.get_buffer("latent_std").cpu()
    if at_hand.shape != wanted.shape or not torch.allclose(at_hand, wanted, rtol=1e-2):
        raise MedpairError(
            f"autoencoder: latent scale {_brief(at_hand)}, the weights were trained with "
            f"{_brief(wanted)}; use the autoencoder of the same training"
        )


def _brief(values: Tensor) -> str:
    return "[" + ", ".join(f"{v:.3g}" for v in values.flatten()[:3].tolist()) + ", ...]"
