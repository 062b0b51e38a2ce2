"""What others call: masks of images, and features of images.

V volumes, C channels, D, H, W volume size, d, h, w size of a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import MedpairError
from segeval.inferers import PaddedInferer


class _Caller:
    """A network, one volume at a time, on its device."""

    def __init__(self, network: nn.Module, inferer: PaddedInferer) -> None:
        self.network, self.inferer = network.eval(), inferer

    def _unit(self, image_DHW: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        unit = (image_DHW.to(device, torch.float32) + 1) / 2
        return unit.clamp(0, 1)[None, None]


class Segmenter(_Caller):
    """Predict the masks of images.

    Args:
        network: gives class logits of images in [0, 1].
        inferer: runs it.
    """

    @torch.no_grad()
    def __call__(self, image_VDHW: Tensor) -> Tensor:
        """Return masks (V, D, H, W), uint8, on the CPU.

        Args:
            image_VDHW: float32 in [-1, 1], as pipelines pass it.

        Raises:
            MedpairError: for another number of axes.
        """
        logits = (
            self.inferer(self._unit(image), self.network)[0] for image in check_images(image_VDHW)
        )
        return torch.stack([scores.argmax(dim=0).byte().cpu() for scores in logits])


class Features(_Caller):
    """Return what a named part of the network makes of images.

    Args:
        network: takes images in [0, 1].
        inferer: runs it.
        layer: name of the part, as `network.get_submodule` knows it.

    Raises:
        MedpairError: if the network has no such part.
    """

    def __init__(self, network: nn.Module, inferer: PaddedInferer, layer: str) -> None:
        super().__init__(network, inferer)
        try:
            self.layer = network.get_submodule(layer)
        except AttributeError as error:
            raise MedpairError(
                f"feature_layer is {layer!r}; the network has no such part ({error}); "
                "correct feature_layer"
            ) from error

    @torch.no_grad()
    def __call__(self, image_VDHW: Tensor) -> Tensor:
        """Return feature maps (V, C, d, h, w), float32, on the CPU; padding is cropped.

        Args:
            image_VDHW: float32 in [-1, 1], as pipelines pass it.

        Raises:
            MedpairError: for another number of axes.
        """
        return torch.stack([self._features(image) for image in check_images(image_VDHW)])

    def _features(self, image_DHW: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = self.layer.register_forward_hook(lambda _m, _i, output: seen.append(output))
        try:
            self.inferer.whole(self._unit(image_DHW), self.network)
        finally:
            hook.remove()
        (maps,) = seen
        maps_CDHW = maps[0] if maps.ndim == 5 else maps.transpose(0, 1)  # a 2D network's slices
        padded = self.inferer.padded(image_DHW.shape)
        ratios = zip(image_DHW.shape, maps_CDHW.shape[1:], padded, strict=True)
        depth, height, width = (-(-n * made // whole) for n, made, whole in ratios)
        return maps_CDHW[:, :depth, :height, :width].float().cpu()


def check_images(image_VDHW: Tensor) -> Tensor:
    """Return the images themselves.

    Raises:
        MedpairError: if they have another number of axes than four.
    """
    if image_VDHW.ndim != 4:
        raise MedpairError(
            f"images: shape {tuple(image_VDHW.shape)}, wanted (V, D, H, W); pass volumes without "
            "a channel axis"
        )
    return image_VDHW
