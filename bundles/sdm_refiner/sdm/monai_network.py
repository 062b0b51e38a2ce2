"""MONAI's SPADE diffusion U-Net in the place of ours, for weights that were trained with it.

N slices, C image channels, M mask channels, H, W slice size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import SPADEDiffusionModelUNet
from torch import Tensor, nn

from common.networks.monai_unet import built
from sdm.network import Modulations


class MonaiSemanticDenoiser(nn.Module):
    """`monai.networks.nets.SPADEDiffusionModelUNet`, called as `SemanticDenoiser` is.

    It knows no positions, and computes what the mask modulates anew in each step.

    Args:
        mask_channels: M.
        image_channels: C.
        channels: per level, finest first, multiples of ``norm_num_groups``.
        views: views that share the weights; more than one are classes of the network.
        learned_sigma: put out C more channels, the logits of the variance.
        **options: further arguments of MONAI's class, such as ``num_res_blocks``,
            ``attention_levels``, ``norm_num_groups``, ``spade_intermediate_channels``.

    Raises:
        MedpairError: for arguments that make no network.
    """

    called_per_step = True
    graphs = False  # its modulations are large, and joint trajectories keep outputs

    def __init__(
        self,
        mask_channels: int,
        image_channels: int = 1,
        channels: Sequence[int] = (64, 96, 128),
        views: int = 1,
        learned_sigma: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(channels) - 1)
        self.views = views
        self.network = built(
            SPADEDiffusionModelUNet,
            spatial_dims=2,
            in_channels=image_channels,
            out_channels=image_channels * (1 + learned_sigma),
            label_nc=mask_channels,
            channels=tuple(channels),
            num_class_embeds=views if views > 1 else None,
            **{"num_res_blocks": 2, "attention_levels": [False] * len(channels), **options},
        )

    def modulations(self, mask_NMHW: Tensor) -> Modulations:
        """Return the masks themselves, which the network takes as they are."""
        return [mask_NMHW]

    def forward(
        self,
        x_NCHW: Tensor,
        timesteps_N: Tensor,
        modulations: Modulations,
        position_N2: Tensor,  # noqa: ARG002
        view: int = 0,
    ) -> Tensor:
        """Return the prediction of each slice, see `SemanticDenoiser.forward`."""
        classes = None
        if self.views > 1:
            classes = torch.full((len(x_NCHW),), view, device=x_NCHW.device)
        out: Tensor = self.network(x_NCHW, timesteps_N, modulations[0], class_labels=classes)
        return out
