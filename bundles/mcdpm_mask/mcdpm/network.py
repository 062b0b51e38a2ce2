"""The MC-DPM denoiser: windows of mask slices with condition slices marked by an indicator.

B windows, S slices per window, C code channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import MedpairError
from common.networks.embedding import ConditionEmbedding
from common.networks.monai_unet import MonaiUNet, check_network
from common.networks.single import LAST_STEP, SingleInput
from common.networks.unet import UNet

DEPTH = 48  # slices of the volume whose start the form of one input predicts


class MaskDenoiser(SingleInput):
    """Predict the noise (or v, x_0) of the target slices of mask windows.

    Args:
        code_channels: channels C of the label code (1 scalar, K one-hot).
        window: slices S per window (m in the paper).
        channels: U-Net channels per level.
        embedding: width of the condition embedding.
        slice_mode: "channels" (slices as channels of a 2D U-Net, faithful) or "2p1d" (shared 2D
            weights with slice convolution and slice attention; any number of slices).
        position: "first_slice" (z/D, faithful) or "absolute" (z/D and 1/D; with "2p1d" the
            position (z+k)/D of each slice k); with MONAI's network also "none".
        num_res_blocks, attention_levels, unshuffle, dropout: see `common.networks.unet.UNet`.
        network: "own", or "monai" for MONAI's DiffusionModelUNet with slices as channels.
        options: further arguments of that, see `common.networks.monai_unet.MonaiUNet`.

    Source: MedGen3D §3.1.
    """

    called_per_step = True

    def __init__(
        self,
        code_channels: int,
        window: int,
        channels: Sequence[int],
        embedding: int = 256,
        slice_mode: str = "channels",
        position: str = "absolute",
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] | None = None,
        unshuffle: int = 1,
        dropout: float = 0.0,
        network: str = "own",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if slice_mode not in ("channels", "2p1d"):
            raise MedpairError(f"slice_mode is {slice_mode!r}; use 'channels' or '2p1d'")
        if position not in ("absolute", "first_slice") and (network, position) != ("monai", "none"):
            raise MedpairError(f"position is {position!r}; use 'absolute' or 'first_slice'")
        check_network(network, options, unshuffle=unshuffle != 1, dropout=dropout != 0)
        self.code_channels, self.window = code_channels, window
        self.slice_mode, self.position = slice_mode, position
        folded = window if slice_mode == "channels" else 1
        self.unet: nn.Module
        if network == "monai":
            self._build_monai(channels, num_res_blocks, attention_levels, options or {})
            return
        self.embed = ConditionEmbedding(
            embedding // 2, embedding, num_scalars=1 if position == "first_slice" else 2
        )
        self.unet = UNet(
            folded * (code_channels + 1),
            folded * code_channels,
            channels,
            embedding,
            num_res_blocks=num_res_blocks,
            attention_levels=attention_levels,
            slice_layers=slice_mode == "2p1d",
            unshuffle=unshuffle,
            dropout=dropout,
        )

    def _build_monai(
        self,
        channels: Sequence[int],
        num_res_blocks: int,
        attention_levels: Sequence[bool] | None,
        options: Mapping[str, Any],
    ) -> None:
        if self.slice_mode != "channels":
            raise MedpairError("network 'monai' with slice_mode '2p1d'; use slice_mode channels")
        self.unet = MonaiUNet(
            self.window * (self.code_channels + 1),
            self.window * self.code_channels,
            channels,
            {"none": 0, "first_slice": 1, "absolute": 2}[self.position],
            options={
                "num_res_blocks": num_res_blocks,
                "attention_levels": attention_levels or [False] * len(channels),
                **options,
            },
        )

    @property
    def single_size(self) -> tuple[int, ...]:
        """Size of one input of `single`: code and indicator channels, slices, height, width."""
        return self.code_channels + 1, self.window, 40, 40

    def single(self, image: Tensor) -> Tensor:
        """Return the prediction (B, C, S, H, W) for windows (B, C + 1, S, H, W) of pure noise.

        The windows stand at the start of a volume.
        """
        x_BSCHW = image.transpose(1, 2)
        t = torch.full((len(image),), LAST_STEP, device=image.device)
        position = torch.tensor([[0.0, 1 / DEPTH]], device=image.device).expand(len(image), 2)
        predicted: Tensor = self(x_BSCHW, t, position)
        return predicted.transpose(1, 2)

    def forward(
        self,
        x_BSCHW: Tensor,
        timesteps_B: Tensor | None = None,
        position_B2: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction for every slice of every window.

        Args:
            x_BSCHW: code channels (noisy target slices, clean condition slices) and, as the
                last channel, the indicator (1 on condition slices); (B, S, C+1, H, W).
            timesteps_B: diffusion time steps in [0, T).
            position_B2: (z/D, 1/D) of each window's first slice.

        Returns:
            (B, S, C, H, W); the values on condition slices carry no meaning. For the first
            tensor alone: see `single`.
        """
        if timesteps_B is None or position_B2 is None:
            return self.single(x_BSCHW)
        self._check(x_BSCHW)
        b, s = x_BSCHW.shape[:2]
        if self.slice_mode == "channels":
            x = x_BSCHW.flatten(1, 2).contiguous(memory_format=torch.channels_last)
            scalars = self._scalars(position_B2)
            if isinstance(self.unet, MonaiUNet):
                predicted = self.unet(x, timesteps_B, scalars)
            else:
                predicted = self.unet(x, self.embed(timesteps_B, scalars))
            return torch.unflatten(predicted, 1, (s, self.code_channels))
        steps = torch.arange(s, device=x_BSCHW.device)
        position = position_B2.repeat_interleave(s, 0)
        if self.position == "absolute":
            shift = steps.repeat(b) * position[:, 1]
            position = torch.stack([position[:, 0] + shift, position[:, 1]], dim=1)
        emb = self.embed(timesteps_B.repeat_interleave(s, 0), self._scalars(position))
        x = x_BSCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return torch.unflatten(self.unet(x, emb, slices=s), 0, (b, s))

    def _check(self, x_BSCHW: Tensor) -> None:
        s, c = x_BSCHW.shape[1], x_BSCHW.shape[2] - 1
        if c != self.code_channels or (self.slice_mode == "channels" and s != self.window):
            raise MedpairError(
                f"the network got windows of {s} slices with {c} code channels, wanted "
                f"{self.window} and {self.code_channels}; make window, label_code and num_classes "
                "fit network_def"
            )

    def _scalars(self, position_N2: Tensor) -> Tensor:
        return position_N2[:, :1] if self.position == "first_slice" else position_N2
