"""3D Pix2Pix, a baseline: a U-Net turns one-hot masks into images, a patch discriminator judges.

B samples, V volumes, K classes, M condition channels, D, H, W volume or patch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from monai.inferers import Inferer, sliding_window_inference
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.checks import check_labels, whole_numbers
from common.engines.inferers import precision_context, resolve_precision
from common.errors import MedpairError
from gem3d.adversarial import AdversarialLoss, AdversarialTrainer, build_discriminator
from gem3d.baseline_data import pad_to_strides, pad_volume, slice_distance, spread_slice
from gem3d.volumes import BACKGROUND

INFORMED_CHANNELS = 2
AIR = -2.0
"""Where outputs start before the tanh: most voxels are air, and a start above them saturates."""


class Pix2PixGenerator(nn.Module):
    """MONAI's 3D U-Net from conditions to an image.

    Args:
        num_classes: K.
        informed: the conditions show a true slice too.
        channels: channels per level, finest first.
        strides: strides between levels, as many as levels less one; a first 1 keeps full size.
        num_res_units: residual units per level; 0 for plain convolutions.

    Source: Isola et al., Pix2Pix (1611.07004), §3.2, in three dimensions.
    """

    def __init__(
        self,
        num_classes: int,
        informed: bool = False,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int] = (1, 2, 2, 2),
        num_res_units: int = 1,
    ) -> None:
        super().__init__()
        self.num_classes, self.informed = num_classes, informed
        self.condition_channels = num_classes + INFORMED_CHANNELS * informed
        self.stride = prod(strides)
        self.unet = UNet(
            3, self.condition_channels, 1, channels, strides, num_res_units=num_res_units
        )
        self.level = nn.Parameter(torch.tensor([AIR]))

    def condition(self, label_BDHW: Tensor, informed_B2DHW: Tensor | None) -> Tensor:
        """Return the conditions (B, M, D, H, W), float32.

        Args:
            label_BDHW: integer labels 0..K-1.
            informed_B2DHW: slice and distance, see `PatchBatches`; read where ``informed``.
        """
        one_hot = F.one_hot(label_BDHW.long(), self.num_classes).movedim(-1, 1).float()
        if not self.informed:
            return one_hot
        assert informed_B2DHW is not None
        return torch.cat([one_hot, informed_B2DHW.to(one_hot)], dim=1)

    def forward(self, condition_BMDHW: Tensor) -> Tensor:
        """Return images (B, 1, D, H, W) in [-1, 1]; any size of two strides or more.

        Raises:
            MedpairError: for a volume so small that the deepest level is a single voxel.
        """
        depth, height, width = condition_BMDHW.shape[-3:]
        padded = pad_to_strides(condition_BMDHW, (self.stride,) * 3)
        if prod(padded.shape[-3:]) == self.stride**3:
            raise MedpairError(
                f"volume or patch of {depth}x{height}x{width}; want an axis longer than the "
                f"network's stride {self.stride}; choose a larger patch or fewer levels"
            )
        image: Tensor = self.unet(padded)[..., :depth, :height, :width]
        return (image + self.level).tanh()


def discriminator_of(
    generator: Pix2PixGenerator, channels: int = 24, num_layers: int = 2
) -> nn.Module:
    """Return the patch discriminator of images together with a generator's conditions.

    Args:
        generator: whose images it judges.
        channels: filters of the first layer.
        num_layers: 2 for tiny volumes (patches of 34 voxels), 3 otherwise (70 voxels).
    """
    return build_discriminator(channels, num_layers, 3, generator.condition_channels + 1)


@dataclass(frozen=True, kw_only=True)
class Pix2PixLoss(AdversarialLoss):
    """L1 + adversarial.

    Args:
        l1: weight of the mean absolute error.
        adversarial: weight of the adversarial term (LSGAN).
        adversarial_start: first iteration with it.

    Source: Isola et al., Pix2Pix (1611.07004), eq. 4, with LSGAN.
    """

    l1: float = 100.0
    adversarial: float = 1.0
    adversarial_start: int = 0

    def generator(
        self, image: Tensor, output: tuple[Tensor, ...], logits: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the terms by name, see `AdversarialLoss.generator`."""
        terms = {"l1": F.l1_loss(output[0].float(), image)}
        total = self.l1 * terms["l1"]
        if logits is not None:
            terms["adversarial"] = self.fooling(logits)
            total = total + self.adversarial * terms["adversarial"]
        return {**terms, "loss": total}


def check_size(image_B1DHW: Tensor, discriminator: nn.Module) -> None:
    """Raise MedpairError where images are too small for the discriminator's layers."""
    layers = int(discriminator.num_layers_d)  # type: ignore[arg-type]
    smallest = 3 * 2**layers  # each layer but the last halves; the last two want three voxels
    if min(image_B1DHW.shape[-3:]) < smallest:
        size = "x".join(str(n) for n in image_B1DHW.shape[-3:])
        raise MedpairError(
            f"patch or volume of {size}; want {smallest} or more along each axis for a "
            f"discriminator of {layers} layers; choose a larger patch or fewer layers"
        )


class Pix2PixTrainer(AdversarialTrainer):
    """Train generator and discriminator on `PatchBatches`; arguments as `AdversarialTrainer`."""

    def prepare(self, batchdata: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return images and conditions."""
        image, label, informed = (
            batchdata[key].to(self.state.device) for key in ("image", "label", "informed")
        )
        assert isinstance(self.network, Pix2PixGenerator)
        check_size(image, self.discriminator)
        return image, self.network.condition(label, informed)


class Pix2PixInferer(Inferer):
    """Make images of whole masks, in overlapping patches where they are larger than a patch.

    Args:
        patch: size (d, h, w) of the patches that the network was trained on; None: whole volumes.
        overlap: share of a patch that the next one covers too, 0..1.
        precision: "fp32" (default), "auto", "bf16" or "fp16".
    """

    def __init__(
        self,
        patch: Sequence[int] | None = None,
        overlap: float = 0.5,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        resolve_precision("cpu", precision)
        self.patch, self.overlap, self.precision = patch, overlap, precision

    def __call__(
        self, inputs: Tensor, network: Pix2PixGenerator, slice_VHW: Tensor, index: Tensor
    ) -> Tensor:
        """Return images (V, 1, D, H, W), float32 in [-1, 1].

        Args:
            inputs: masks (V, 1, D, H, W), whole numbers.
            network: the generator.
            slice_VHW: a slice of each volume, in [-1, 1]; read where ``network.informed``.
            index: its number, (V,).

        Raises:
            MedpairError: for labels outside the network's classes.
        """
        label = whole_numbers(inputs[:, 0])
        check_labels(label, network.num_classes)
        condition = self._condition(label, network, slice_VHW[:, None], index)
        with precision_context(inputs.device, self.precision):
            image = self._made(condition, network).float()
        depth, height, width = label.shape[1:]
        return image[..., :depth, :height, :width]

    def _condition(
        self, label_VDHW: Tensor, network: Pix2PixGenerator, slice_V1HW: Tensor, index: Tensor
    ) -> Tensor:
        """Return the conditions, of at least the size of a patch, as in training."""
        depth = label_VDHW.shape[1]
        label = pad_volume(label_VDHW, self.patch or label_VDHW.shape[1:])
        seen = pad_volume(slice_V1HW, (1, *label.shape[2:]), BACKGROUND)
        slices = [
            spread_slice(maps, slice_distance(int(z), depth, 0, label.shape[1]))
            for maps, z in zip(seen, index, strict=True)
        ]
        return network.condition(label, torch.stack(slices))

    def _made(self, condition: Tensor, network: Pix2PixGenerator) -> Tensor:
        if self.patch is None or tuple(condition.shape[-3:]) == tuple(self.patch):
            image: Tensor = network(condition)
        else:
            image = sliding_window_inference(
                condition, self.patch, 1, network, overlap=self.overlap, mode="gaussian"
            )
        return image
