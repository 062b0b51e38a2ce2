"""What is asked of the sampler, and what each window of it is generated from.

V volumes, R rows of a batch, S slices per window, D slices per volume, C latent channels,
E = C + 1 channels of an informed slice, M mask channels, h, w latent height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from common.diffusion.lockstep import Placed, Round
from common.errors import MedpairError
from gem3d.conditions import VolumeMasks, informed_maps
from gem3d.plan import informed_by

LatentContext = tuple[Tensor, Tensor]
"""Latents VDChw to keep, and where, VD1hw bool."""


class Conditions(NamedTuple):
    """What one window is generated from; with another first axis R, those of a round."""

    mask_SMhw: Tensor
    informed_Ehw: Tensor
    offset_S: Tensor
    position_S: Tensor
    known_latent_SChw: Tensor
    known_S1hw: Tensor


@dataclass(frozen=True)
class SampleRequest:
    """Volumes to be sampled.

    Args:
        mask_VDMhw: encoded masks.
        informed_VEhw: latents of the informed slices and a channel of ones.
        informed_index: slice of the volume that each informed slice stands for.
        starts: slice at which each volume starts.
        impose: whether each informed slice becomes its volume's slice.
        context: what is kept in the plane, if anything.
        window: slices S per window.
        use_informed: False gives the network no informed slice.
        use_known: False imposes no slice that was generated before.

    Raises:
        MedpairError: where shapes, numbers or places do not fit.
    """

    mask_VDMhw: Tensor | VolumeMasks
    informed_VEhw: Tensor
    informed_index: Sequence[int]
    starts: Sequence[int]
    impose: Sequence[bool]
    context: LatentContext | None
    window: int
    use_informed: bool = True
    use_known: bool = True

    def __post_init__(self) -> None:
        number, _, _, *size = self.mask_VDMhw.shape
        if list(self.informed_VEhw.shape[2:]) != size:
            raise MedpairError(
                f"informed slice: latent size {list(self.informed_VEhw.shape[2:])}; want {size} as "
                "the mask's; resize the slice as the mask"
            )
        for key in ("informed_VEhw", "informed_index", "starts", "impose"):
            check_count(key, len(getattr(self, key)), number)
        for index, start in zip(self.informed_index, self.starts, strict=True):
            self._check_place(index, start)
        if any(self.impose) and not self.use_informed:
            raise MedpairError("impose: True without informed slices; want False; or set informed")
        if self.context is not None:
            self._check_context(*self.context)

    @property
    def depth(self) -> int:
        """Slices D per volume."""
        return self.mask_VDMhw.shape[1]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels C, height and width of a latent slice."""
        channels, height, width = self.informed_VEhw.shape[1:]
        return channels - 1, height, width

    def conditions(self, batch: Round, latent_VDChw: Tensor, first: bool) -> Conditions:
        """Return the conditions of a round; rows without a window are zero.

        Args:
            batch: windows of a round.
            latent_VDChw: what has been generated.
            first: whether this is the first round.
        """
        found = {p.row: self._of_window(p, latent_VDChw, first) for p in batch.windows}
        blank = [torch.zeros_like(part) for part in next(iter(found.values()))]
        rows = [found.get(row, blank) for row in range(batch.rows)]
        return Conditions(*(torch.stack(parts) for parts in zip(*rows, strict=True)))

    def _of_window(self, placed: Placed, latent_VDChw: Tensor, first: bool) -> Conditions:
        slot, window, latent_DChw = placed.slot, placed.window, latent_VDChw[placed.slot]
        place_S = torch.arange(self.window, device=latent_VDChw.device)
        # slices beyond a volume shorter than the window repeat its last one
        index_S = (window.start + place_S).clamp(max=self.depth - 1)
        known_latent_SChw, known_S1hw = self._context(slot, index_S)
        seen, source = window.local(window.known), informed_by(window, first)
        if source is None:
            informed_Ehw, at = self.informed_VEhw[slot], self.informed_index[slot] - window.start
        else:
            informed_Ehw = informed_maps(latent_DChw[source, None])[0]
            at = seen.start if window.backward else seen.stop - 1
        if self.use_known:
            known_latent_SChw[seen] = latent_DChw[window.known.start : window.known.stop]
            known_S1hw[seen] = True
        if first and self.impose[slot]:
            known_latent_SChw[at], known_S1hw[at] = informed_Ehw[:-1], True
        return Conditions(
            self.mask_VDMhw[slot, index_S],
            informed_Ehw * self.use_informed,
            (index_S - (window.start + at)) * float(self.use_informed),
            index_S / float(self.depth),
            known_latent_SChw,
            known_S1hw,
        )

    def _context(self, slot: int, index_S: Tensor) -> LatentContext:
        """Latents SChw to keep and where S1hw; nothing without a context."""
        if self.context is not None:
            latent_VDChw, known_VD1hw = self.context
            return latent_VDChw[slot, index_S], known_VD1hw[slot, index_S]
        latent_SChw = self.informed_VEhw.new_zeros(len(index_S), *self.latent_shape)
        return latent_SChw, torch.zeros_like(latent_SChw[:, :1], dtype=torch.bool)

    def _check_place(self, index: int, start: int) -> None:
        depth = self.depth
        if not 0 <= start < depth:
            raise MedpairError(f"start: {start}; want 0..{depth - 1}; choose a slice of the volume")
        first = max(0, min(start, depth - self.window))
        last = min(first + self.window, depth) - 1
        if not first <= index <= last:
            raise MedpairError(
                f"informed_index: {index}; want {first}..{last}, a slice of the start window; "
                "change it or the start"
            )

    def _check_context(self, latent_VDChw: Tensor, known_VD1hw: Tensor) -> None:
        channels, *size = self.latent_shape
        for value, count in ((latent_VDChw, channels), (known_VD1hw, 1)):
            want = (len(self.mask_VDMhw), self.depth, count, *size)
            if tuple(value.shape) != want:
                raise MedpairError(
                    f"context: shape {tuple(value.shape)}; want {want}; encode the image that "
                    "belongs to the mask"
                )


def check_count(key: str, found: int, wanted: int) -> None:
    """Raise a MedpairError unless there is one value of ``key`` per mask."""
    if found != wanted:
        raise MedpairError(f"{key}: {found} values; want {wanted}, one per mask; give them all")
