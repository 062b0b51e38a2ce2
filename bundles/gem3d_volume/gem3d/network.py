"""The volume network: a pseudo-3D U-Net on latents under a mask and an informed slice.

B windows, S slices per window, N = B * S, C latent channels, M mask channels, h, w latent size,
E embedding width, L context tokens, K their channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.errors import MedpairError
from common.networks.blocks import SliceAttention, SliceConv, zero_init
from common.networks.embedding import ConditionEmbedding
from common.networks.unet import StageOptions, UNet, UNetEncoder

WAYS = {
    "mask": ("concat", "controlnet", "spade"),
    "informed": ("concat", "controlnet", "cross_attention", "none"),
}
OFFSET_UNIT = 64.0


class ControlBranch(UNetEncoder):
    """An encoder whose outputs, through convolutions that start at zero, steer the U-Net.

    Source: Zhang et al., ControlNet (2302.05543), §3.1; trained together with the U-Net, as in
    GEM-3D, appendix C.3.
    """

    def __init__(
        self,
        channels_in: int,
        channels: Sequence[int],
        options: StageOptions,
        num_res_blocks: int,
        attention_levels: Sequence[bool] | None,
    ) -> None:
        super().__init__(channels_in, channels, options, num_res_blocks, attention_levels)
        widths = [*self.skip_channels, channels[-1]]
        self.zero = nn.ModuleList(zero_init(nn.Conv2d(width, width, 1)) for width in widths)

    def forward(self, x_NChw: Tensor, emb_NE: Tensor, slices: int) -> list[Tensor]:
        """Return what is added to the skips and the middle of the U-Net."""
        found = self.encode(x_NChw, emb_NE, slices)
        return [zero(x) for zero, x in zip(self.zero, found, strict=True)]


class PatchTokens(nn.Sequential):
    """The informed slice as tokens: strided convolutions, one token per patch, with positions.

    The paper uses CLIP, which knows no scans and must be downloaded.

    Args:
        channels_in: C + 1.
        width: channels K of a token.

    Source: GEM-3D, appendix C.3 (concatenation + CLIP).
    """

    def __init__(self, channels_in: int, width: int) -> None:
        sizes = (channels_in + 2, width // 2, width)
        layers = [
            layer
            for a, b in pairwise(sizes)
            for layer in (nn.Conv2d(a, b, 3, padding=1), nn.SiLU())
        ]
        super().__init__(*layers, nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(width, width, 1))

    def forward(self, informed_BDhw: Tensor) -> Tensor:
        """Return tokens (B, L, K)."""
        b, _, h, w = informed_BDhw.shape
        rows = torch.linspace(-1, 1, h, device=informed_BDhw.device)[None, None, :, None]
        columns = torch.linspace(-1, 1, w, device=informed_BDhw.device)[None, None, None, :]
        place = torch.cat([rows.expand(b, 1, h, w), columns.expand(b, 1, h, w)], dim=1)
        tokens: Tensor = super().forward(  # type: ignore[no-untyped-call]
            torch.cat([informed_BDhw, place], dim=1)
        )
        return tokens.flatten(2).transpose(1, 2)


class StyleEmbedding(nn.Module):
    """What the informed slice as a whole looks like, as a part of the condition embedding.

    Brightness and contrast belong to all slices of a volume, wherever the anatomy lies; group
    norms hide them from the convolutions, so they get a way of their own.

    Args:
        channels_in: C + 1.
        width: channels of the two convolutions.
        embedding: width E of the condition embedding.
    """

    def __init__(self, channels_in: int, width: int, embedding: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels_in, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.project = zero_init(nn.Linear(2 * width, embedding))

    def forward(self, informed_BDhw: Tensor) -> Tensor:
        """Return (B, E) from the mean and the largest value of each feature."""
        features = self.features(informed_BDhw)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        embedded: Tensor = self.project(pooled)
        return embedded


class VolumeDenoiser(nn.Module):
    """Predict the noise (or v, x_0) of the latent slices of a window.

    Args:
        latent_channels: C.
        mask_channels: M.
        channels: channels per level, finest first.
        embedding: width E of the condition embedding.
        num_res_blocks: residual blocks per level.
        attention_levels: for each level, whether it has attention; the middle always has.
        volumetric: the layers along the slices (volume diffusion); without them every slice is
            on its own (slice diffusion, stage 1).
        mask_injection: "concat" (paper), "controlnet" or "spade".
        informed_injection: "concat" (paper), "controlnet", "cross_attention"; "none" is
            Make-A-Volume.
        style: embed what the informed slice looks like as a whole (paper: no).
        offset: embed each slice's distance from the informed slice (paper: no).
        position: embed slice / D of each slice (paper: no).
        known_channel: a channel that says which slices are given clean (paper: no).
        mask_hidden: channels inside the SPADE branches.
        dropout: drop probability in the residual blocks.
        checkpointing: see `common.networks.unet.StageOptions`.

    Raises:
        MedpairError: for an unknown way of injection.

    Source: GEM-3D §3.1-3.2 and appendix C.3.
    """

    called_per_step = True

    latent_std: Tensor

    def __init__(
        self,
        latent_channels: int,
        mask_channels: int,
        channels: Sequence[int] = (64, 128),
        embedding: int = 128,
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] | None = None,
        volumetric: bool = True,
        mask_injection: str = "concat",
        informed_injection: str = "concat",
        style: bool = True,
        offset: bool = True,
        position: bool = True,
        known_channel: bool = False,
        mask_hidden: int = 64,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_way("mask", mask_injection)
        _check_way("informed", informed_injection)
        self.latent_channels, self.mask_channels = latent_channels, mask_channels
        self.ways = {"mask": mask_injection, "informed": informed_injection}
        self.offset, self.position, self.known_channel = offset, position, known_channel
        self.embed = ConditionEmbedding(embedding // 2, embedding, num_scalars=3)
        informed = latent_channels + 1
        widths = {"mask": mask_channels, "informed": informed}
        beside = {
            way: sum(widths[name] for name in widths if self.ways[name] == way)
            for way in ("concat", "controlnet")
        }
        styled = style and informed_injection != "none"
        self.style = StyleEmbedding(informed, embedding // 2, embedding) if styled else None
        crossed = informed_injection == "cross_attention"
        self.tokens = PatchTokens(informed, embedding) if crossed else None
        self.unet = UNet(
            latent_channels + beside["concat"] + known_channel,
            latent_channels,
            channels,
            embedding,
            num_res_blocks,
            attention_levels,
            dropout=dropout,
            pseudo3d=volumetric,
            context_channels=embedding if crossed else None,
            mask_channels=mask_channels if mask_injection == "spade" else None,
            mask_hidden=mask_hidden,
            checkpointing=checkpointing,
        )
        self.control: ControlBranch | None = None
        if beside["controlnet"]:
            self.control = ControlBranch(
                latent_channels + beside["controlnet"],
                channels,
                StageOptions(
                    embedding, pseudo3d=volumetric, dropout=dropout, checkpointing=checkpointing
                ),
                num_res_blocks,
                attention_levels,
            )
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def forward(
        self,
        x_BSChw: Tensor,
        timesteps: Tensor,
        mask_BSMhw: Tensor,
        informed_BDhw: Tensor,
        offset_BS: Tensor,
        position_BS: Tensor,
        known_BS: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction of every slice, (B, S, C, h, w).

        Args:
            x_BSChw: noisy latents.
            timesteps: (B,) for one time step per window, or (B, S), in [0, T).
            mask_BSMhw: masks, see `gem3d.conditions.MaskEncoding`; zeros for none.
            informed_BDhw: informed slices, see `gem3d.conditions.informed_maps`; zeros for none.
            offset_BS: slice number minus that of the informed slice.
            position_BS: slice number / D.
            known_BS: which slices are given clean, bool; None for none.
        """
        slices = x_BSChw.shape[1]
        emb = self._embedding(timesteps, offset_BS, position_BS, informed_BDhw)
        spread = informed_BDhw[:, None].expand(-1, slices, -1, -1, -1)
        parts = {"mask": mask_BSMhw.flatten(0, 1), "informed": spread.flatten(0, 1)}
        x = x_BSChw.flatten(0, 1)
        beside = [parts[name] for name in parts if self.ways[name] == "concat"]
        if self.known_channel:
            beside.append(_plane(known_BS, x_BSChw))
        control: list[Tensor] = []
        if self.control is not None:
            steering = [parts[name] for name in parts if self.ways[name] == "controlnet"]
            control = self.control(_joined(x, *steering), emb, slices)
        context = None
        if self.tokens is not None:
            context = self.tokens(informed_BDhw).repeat_interleave(slices, dim=0)
        mask = parts["mask"] if self.ways["mask"] == "spade" else None
        out: Tensor = self.unet(_joined(x, *beside), emb, slices, context, mask, control)
        return out.view(*x_BSChw.shape)

    def _embedding(
        self, timesteps: Tensor, offset_BS: Tensor, position_BS: Tensor, informed_BDhw: Tensor
    ) -> Tensor:
        told = float(self.ways["informed"] != "none")  # TorchScript multiplies by no bool
        present = told * informed_BDhw[:, -1].amax(dim=(1, 2))[:, None].expand_as(offset_BS)
        # without an informed slice there is nothing to be far from
        offset = offset_BS / OFFSET_UNIT * present * float(self.offset)
        scalars = torch.stack([offset, position_BS * float(self.position), present], dim=-1)
        t = timesteps if timesteps.ndim == 2 else timesteps[:, None].expand_as(offset_BS)
        emb: Tensor = self.embed(t.flatten(), scalars.flatten(0, 1))
        if self.style is not None:
            emb = emb + self.style(informed_BDhw).repeat_interleave(offset_BS.shape[1], dim=0)
        return emb


def slice_layer_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of the layers along the slices, which volumetric tuning trains.

    Source: GEM-3D §3.1, stage 2.
    """
    for module in network.modules():
        if isinstance(module, SliceConv | SliceAttention):
            yield from module.parameters()


def _joined(*maps: Tensor) -> Tensor:
    joined = torch.cat([m.to(maps[0].dtype) for m in maps], dim=1)
    return joined.contiguous(memory_format=torch.channels_last)


def _plane(known_BS: Tensor | None, x_BSChw: Tensor) -> Tensor:
    plane = x_BSChw.new_zeros(x_BSChw[:, :, :1].shape)
    if known_BS is not None:
        plane = plane + known_BS[:, :, None, None, None].to(plane)
    return plane.flatten(0, 1)


def _check_way(condition: str, way: str) -> None:
    if way not in WAYS[condition]:
        raise MedpairError(
            f"{condition}_injection: {way!r}; want one of {', '.join(WAYS[condition])}"
        )
