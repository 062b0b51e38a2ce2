"""Baseline DDPM: unconditional networks for slices, one per view.

N slices, C image channels, M mask channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from common.errors import MedpairError
from sdm.views import VIEWS


class UnconditionalDenoisers(nn.Module):
    """One unconditional 2D network per view, called as `ViewDenoisers` is; masks play no part.

    Args:
        views: views that get a network.
        image_channels: C.
        channels: channels per level, finest first (MONAI's tutorial: 128, 256, 256).
        attention_levels: for each level, whether it has attention.
        num_res_blocks: residual blocks per level.
        num_head_channels: channels per attention head.
        norm_num_groups: normalisation groups; they divide all channels.

    Raises:
        MedpairError: for an unknown view or none.

    Source: MedGen3D table 1, row DDPM; DDPM (2006.11239) with MONAI's network.
    """

    def __init__(
        self,
        views: Sequence[str] = VIEWS,
        image_channels: int = 1,
        channels: Sequence[int] = (32, 64, 96),
        attention_levels: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        num_head_channels: int = 32,
        norm_num_groups: int = 4,
    ) -> None:
        super().__init__()
        if not views or any(view not in VIEWS for view in views):
            raise MedpairError(f"views: {list(views)}; want some of {list(VIEWS)}; repair views")
        self.image_channels = image_channels
        self.stride = 2 ** (len(channels) - 1)
        self.networks = nn.ModuleDict(
            {
                view: DiffusionModelUNet(
                    spatial_dims=2,
                    in_channels=image_channels,
                    out_channels=image_channels,
                    channels=tuple(channels),
                    attention_levels=tuple(attention_levels),
                    num_res_blocks=num_res_blocks,
                    num_head_channels=num_head_channels,
                    norm_num_groups=norm_num_groups,
                )
                for view in views
            }
        )

    @property
    def views(self) -> tuple[str, ...]:
        """Views that have a network."""
        return tuple(self.networks)

    def forward(
        self,
        x_NCHW: Tensor,
        timesteps_N: Tensor,
        mask_NMHW: Tensor | None,  # noqa: ARG002 - called as `ViewDenoisers`
        position_N2: Tensor | None,  # noqa: ARG002
        view: str,
    ) -> Tensor:
        """Return the prediction for slices of a view.

        Args:
            x_NCHW: noisy slices; H and W multiples of ``stride``.
            timesteps_N: time steps in [0, T).
            mask_NMHW: not used.
            position_N2: not used.
            view: which network.

        Raises:
            MedpairError: if the view has no network.
        """
        if view not in self.networks:
            raise MedpairError(
                f"view {view!r} has no network; want one of {', '.join(self.views)}, or train it"
            )
        prediction: Tensor = self.networks[view](x_NCHW, timesteps_N)
        return prediction
