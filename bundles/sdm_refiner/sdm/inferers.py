"""How the refiner is called on whole volumes.

V volumes, C image channels, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from monai.inferers import Inferer
from torch import Tensor

from common.data.checks import check_labels, whole_numbers
from common.data.views import view_names
from common.errors import MedpairError
from sdm.refine import Refinement, refine_volumes
from sdm.slices import BACKGROUND, pad_to_multiple
from sdm.views import ViewDenoisers


class VolumeRefiner(Inferer):
    """Refine images under their masks, or make images from masks alone.

    Args:
        how: settings; with ``t_start`` None images are made from noise.
        slice_axis: of the label schema, "AP" or "SI".
        spacing: voxel size (D, H, W) in mm; it matters for view weights only.
        seed: the run's seed.

    Raises:
        MedpairError: if ``t_start`` is 0, which would refine nothing.
    """

    def __init__(
        self,
        how: Refinement,
        slice_axis: str,
        spacing: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_start(how)
        distances = tuple(spacing or (1.0, 1.0, 1.0))
        self.spacing = dict(zip(view_names(slice_axis), distances, strict=True))
        self.how, self.seed = how, seed

    def __call__(
        self,
        inputs: Tensor,
        network: ViewDenoisers,
        before: Tensor | None = None,
        number: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Return the images of masks.

        Args:
            inputs: masks (V, 1, D, H, W) or (V, D, H, W), whole numbers.
            network: denoisers of the views.
            before: the images to refine, (V, C, D, H, W) in [-1, 1]; None where images are made.
            number: number of each volume, which keys its noise; default 0, 1, ...

        Returns:
            (V, C, D, H, W) float32 in [-1, 1].

        Raises:
            MedpairError: if image and mask do not fit each other, the network or the settings.
        """
        return self.refined(inputs, network, before, number, self.how)

    def refined(
        self,
        inputs: Tensor,
        network: ViewDenoisers,
        before: Tensor | None,
        number: Tensor | Sequence[int] | None,
        how: Refinement,
    ) -> Tensor:
        """Return what `__call__` returns, with other settings."""
        label = whole_numbers(inputs[:, 0] if inputs.ndim == 5 else inputs)
        check_labels(label, network.num_classes)
        self._check(label, before, network)
        image = None if before is None else before.float()
        numbers = range(len(label)) if number is None else [int(i) for i in number]
        refined = refine_volumes(
            network,
            pad_to_multiple(label, network.stride, 0),
            None if image is None else pad_to_multiple(image, network.stride, BACKGROUND),
            how,
            spacing=self.spacing,
            seed=self.seed,
            volumes=list(numbers),
        )
        depth, height, width = label.shape[1:]
        return refined[..., :depth, :height, :width].clamp(-1, 1)

    def _check(self, label: Tensor, image: Tensor | None, network: ViewDenoisers) -> None:
        if (image is None) != (self.how.t_start is None):
            raise MedpairError(
                f"t_start: {self.how.t_start} {'without' if image is None else 'with'} images; "
                "want a number to refine images, null to make them from noise"
            )
        if image is None:
            return
        wanted = (len(label), network.image_channels, *label.shape[1:])
        if tuple(image.shape) != wanted:
            raise MedpairError(
                f"images of shape {tuple(image.shape)} for masks {tuple(label.shape)}; want "
                f"{wanted}: one grid and the channels of network_def; resample the images"
            )


class StudyRefiner(VolumeRefiner):
    """The same where a study is all there is, as in MONAI Label; arguments as for VolumeRefiner."""

    def __call__(
        self,
        inputs: Tensor,
        network: ViewDenoisers,
        before: Tensor | None = None,
        number: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Return the refined images of studies, or, where ``before`` is given, of masks.

        Args:
            inputs: (V, C + 1, D, H, W), images in [-1, 1] and last their mask; or images alone
                (V, C, D, H, W), which are refined under the null mask of guidance.
            network: denoisers of the views.
            before: makes masks of the inputs, see `VolumeRefiner`.
            number: number of each volume, which keys its noise; default 0, 1, ...

        Returns:
            (V, C, D, H, W) float32 in [-1, 1].

        Raises:
            MedpairError: as `VolumeRefiner`.
        """
        if before is not None:
            return super().__call__(inputs, network, before, number)
        image, mask = inputs[:, : network.image_channels], inputs[:, network.image_channels :]
        if mask.shape[1]:
            return super().__call__(mask, network, image, number)
        # guidance 0 is the prediction without a mask, whatever stands in it
        how = replace(self.how, guidance_scale=0.0)
        return self.refined(torch.zeros_like(image[:, :1]), network, image, number, how)


def check_start(how: Refinement) -> None:
    """Raise MedpairError for settings that refine nothing."""
    if how.t_start == 0:
        T = how.diffusion.schedule.T
        raise MedpairError(
            f"t_start: 0; want 1..{T - 1}, or leave the refiner out of the pipeline (--stages)"
        )
