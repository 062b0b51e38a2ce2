"""MONAI's diffusion U-Net in the place of ours, for weights that were trained with it.

N slices, S scalars, H, W slice size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from common.errors import MedpairError
from common.networks.embedding import sinusoid

N = TypeVar("N", bound=nn.Module)


class MonaiUNet(nn.Module):
    """`monai.networks.nets.DiffusionModelUNet`; scalars reach it by cross-attention.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        channels: per level, finest first, multiples of ``norm_num_groups``.
        num_scalars: S, each a token of the context; 0 for a network without context.
        width: of the context.
        options: further arguments of MONAI's class, such as ``attention_levels``,
            ``num_res_blocks``, ``num_head_channels``, ``norm_num_groups``.

    Raises:
        MedpairError: for arguments that make no network.

    Source: monai-generative, now in MONAI core; cross-attention: Rombach et al. (2112.10752), §3.3.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels: Sequence[int],
        num_scalars: int = 0,
        width: int = 128,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.width, self.num_scalars = width, num_scalars
        context = {"with_conditioning": True, "cross_attention_dim": width} if num_scalars else {}
        self.network = built(
            DiffusionModelUNet,
            spatial_dims=2,
            in_channels=channels_in,
            out_channels=channels_out,
            channels=tuple(channels),
            **{**dict(options or {}), **context},
        )

    def forward(self, x_NCHW: Tensor, timesteps_N: Tensor, scalars_NS: Tensor) -> Tensor:
        """Return the output (N, channels_out, H, W); scalars in [0, 1] are used where S > 0."""
        tokens = [sinusoid(1000.0 * one, self.width) for one in scalars_NS.unbind(1)]
        context = (
            torch.stack(tokens[: self.num_scalars], 1).to(x_NCHW) if self.num_scalars else None
        )
        out: Tensor = self.network(x_NCHW, timesteps_N, context)
        return out


def check_network(network: str, options: Mapping[str, Any] | None, **own: bool) -> None:
    """Refuse what one of two networks does not know.

    Args:
        network: "own" or "monai".
        options: for MONAI's.
        **own: by name, whether an option of our own network is set.

    Raises:
        MedpairError: for another network, options of MONAI's for our own, or the other way round.
    """
    if network not in ("own", "monai") or (network == "own" and options):
        raise MedpairError(
            f"network is {network!r} with {dict(options or {})}; use 'own', or 'monai' with its "
            "options"
        )
    unknown = [name for name, given in own.items() if given]
    if network == "monai" and unknown:
        raise MedpairError(
            f"network is 'monai' with {', '.join(unknown)}, which it does not know; leave them out"
        )


def built(network: type[N], **options: Any) -> N:
    """Return a network of MONAI.

    Raises:
        MedpairError: where its class refuses the options; one line.
    """
    try:
        return network(**options)
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise MedpairError(
            f"{network.__name__}: {options} makes no network ({reason}); correct network_def"
        ) from error
