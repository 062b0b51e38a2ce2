"""3D-alpha-WGAN, a baseline: the four networks. No mask: it makes images alone.

B volumes, L numbers of a code, D, H, W padded volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import MedpairError

LEAKY = ("leakyrelu", {"negative_slope": 0.2})
NORMS = ("batch", "instance", "none")
BACKGROUND = -1.0


def padded_size(size: Sequence[int], levels: int) -> tuple[int, int, int]:
    """Return the volume size that the networks work at: multiples of 2 to the number of levels.

    Args:
        size: (D, H, W) of the volumes.
        levels: halvings of the size.

    Raises:
        MedpairError: for another number of sides.
    """
    if len(size) != 3 or min(size) < 1:
        raise MedpairError(f"size: {list(size)}, wanted three sides [D, H, W] of 1 or more voxels")
    depth, height, width = (n + -n % 2**levels for n in size)
    return depth, height, width


def pad_volume(volume: Tensor, size: Sequence[int]) -> Tensor:
    """Return (..., D, H, W) with background all around, the volume in the middle.

    Raises:
        MedpairError: for a volume larger than that.
    """
    missing = [n - m for n, m in zip(size, volume.shape[-3:], strict=True)]
    if min(missing) < 0:
        raise MedpairError(
            f"size: {list(size)} with padding, the volumes are of {list(volume.shape[-3:])}; set "
            "size to that of the volumes"
        )
    return F.pad(
        volume, [p for n in reversed(missing) for p in (n // 2, n - n // 2)], "constant", BACKGROUND
    )


def crop_volume(volume: Tensor, size: Sequence[int]) -> Tensor:
    """Return the middle (..., d, h, w), the inverse of `pad_volume`."""
    firsts = [(m - n) // 2 for n, m in zip(size, volume.shape[-3:], strict=True)]
    cut = [slice(first, first + n) for first, n in zip(firsts, size, strict=True)]
    return volume[..., cut[0], cut[1], cut[2]]


def _norm(norm: str) -> str | None:
    if norm not in NORMS:
        raise MedpairError(f"norm: {norm!r}, wanted one of {', '.join(NORMS)}; correct it")
    return None if norm == "none" else norm


class VolumeReader(nn.Module):
    """Strided convolutions from a volume to numbers: the encoder and the discriminator.

    Args:
        size: (D, H, W) of the volumes before padding.
        channels: filters of the strided convolutions, finest first.
        outputs: numbers per volume: L of an encoder, 1 of a discriminator.
        norm: after all of them but the first; "batch" (published), "instance" or "none".

    Source: Kwon, Han and Kim, MICCAI 2019: network architectures.
    """

    def __init__(
        self,
        size: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512),
        outputs: int = 1,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        wide = padded_size(size, len(channels))
        steps = zip((1, *channels), channels, strict=False)
        self.body = nn.Sequential(
            *(
                Convolution(
                    3, a, b, strides=2, kernel_size=4, padding=1, adn_ordering="NA", act=LEAKY,
                    norm=_norm(norm) if level else None,
                )
                for level, (a, b) in enumerate(steps)
            )
        )  # fmt: skip
        d, h, w = (n // 2 ** len(channels) for n in wide)
        self.head = nn.Conv3d(channels[-1], outputs, (d, h, w))

    def forward(self, volume_B1DHW: Tensor) -> Tensor:
        """Return (B, outputs)."""
        numbers: Tensor = self.head(self.body(volume_B1DHW))
        return numbers.flatten(1)


class VolumeGenerator(nn.Module):
    """Volumes from codes: a small volume, then doubled by nearest neighbours and convolved.

    Args:
        size: (D, H, W) of the volumes before padding.
        channels: filters per level, finest first.
        latent: L.
        norm: "batch" (published), "instance" or "none".

    Source: Kwon, Han and Kim, MICCAI 2019: network architectures.
    """

    def __init__(
        self,
        size: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512),
        latent: int = 1000,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.size, self.latent = tuple(size), latent
        self.padded = padded_size(size, len(channels))
        self.base = tuple(n // 2 ** len(channels) for n in self.padded)
        last = channels[-1]
        self.start = Convolution(
            3, latent, last, kernel_size=self.base, strides=1, padding=0, is_transposed=True,
            output_padding=0, norm=_norm(norm), act="relu",
        )  # fmt: skip
        coarse = list(reversed(channels))
        levels: list[nn.Module] = []
        for a, b in pairwise(coarse):
            mixed = Convolution(3, a, b, norm=_norm(norm), act="relu")
            levels += [nn.Upsample(scale_factor=2), mixed]
        levels += [nn.Upsample(scale_factor=2), nn.Conv3d(channels[0], 1, 3, padding=1)]
        self.body = nn.Sequential(*levels)

    def forward(self, code_BL: Tensor) -> Tensor:
        """Return volumes (B, 1, D, H, W) of the padded size, in [-1, 1]."""
        volume: Tensor = self.body(self.start(code_BL[..., None, None, None]))
        return volume.tanh()


class CodeReader(nn.Module):
    """The code discriminator: two hidden layers from a code to one number.

    Args:
        latent: L.
        hidden: units of a hidden layer.
        norm: "batch" (published); others leave it out.

    Source: Kwon, Han and Kim, MICCAI 2019: network architectures.
    """

    def __init__(self, latent: int = 1000, hidden: int = 4096, norm: str = "batch") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a in (latent, hidden):
            layers += [nn.Linear(a, hidden), nn.LeakyReLU(0.2)]
            if _norm(norm) == "batch":
                layers.insert(-1, nn.BatchNorm1d(hidden))
        self.body = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, code_BL: Tensor) -> Tensor:
        """Return (B, 1)."""
        score: Tensor = self.body(code_BL)
        return score
