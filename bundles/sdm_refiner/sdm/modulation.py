"""Memory of a refinement: how many slices run at once, and whose modulations are kept.

The mask branch of SPADE does not depend on the time step. Kept over the steps, its maps cost memory
instead of convolutions; what does not fit is computed again, with equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from common.diffusion.guidance import Denoiser
from common.errors import MedpairError
from sdm.network import Modulations

GIB = 2**30
SHARE = 0.9  # of a budget that is planned; the rest is for states and noise of the volumes


@dataclass(frozen=True)
class SliceCost:
    """Bytes that one slice needs.

    Args:
        kept: its modulations.
        working: activations of the network at their peak.
    """

    kept: int
    working: int

    @staticmethod
    def of(modulations: Modulations, passes: int) -> SliceCost:
        """Estimate the cost from the modulations of one slice.

        Args:
            modulations: for one slice.
            passes: network passes per step that run as one batch (2 with guidance).
        """
        sizes = [m.numel() * m.element_size() for m in modulations]
        largest, total = max(sizes, default=0), sum(sizes)
        # features around the widest block, skips of the encoder, scratch of the convolutions;
        # measured by benchmarks/refiner.py, with a margin
        working = passes * (12 * largest + total)
        return SliceCost(total if passes == 1 else (1 + passes) * total, working)


@dataclass(frozen=True)
class Budget:
    """How a memory budget is spent.

    Args:
        slices: slices per network call.
        cache_bytes: what is left for the modulations of other calls.
    """

    slices: int
    cache_bytes: int

    @staticmethod
    def plan(gigabytes: float, cost: SliceCost, most: int, reserved: int = 0) -> Budget:
        """Let calls of up to ``most`` slices take half of the budget; keep maps in the rest.

        A call has its own maps whether they are kept or not.

        Args:
            gigabytes: the budget, GiB.
            cost: of one slice.
            most: slices per call.
            reserved: bytes that other tensors take.

        Raises:
            MedpairError: if not even one slice fits.
        """
        total = int(SHARE * gigabytes * GIB) - reserved
        one = cost.kept + cost.working
        if one > total:
            what = "one slice and the shared noise want" if reserved else "one slice wants"
            wanted = (one + reserved) / SHARE / GIB
            raise MedpairError(f"memory_budget_gb: {gigabytes:g}; {what} {wanted:.3g}; raise it")
        slices = max(1, min(most, total // (2 * one)))
        return Budget(slices, total - slices * one)


class ModulationCache:
    """Networks bound to their modulations, by key, as many as fit.

    Args:
        bytes_left: room for them.
    """

    def __init__(self, bytes_left: int) -> None:
        self.bytes_left = bytes_left
        self.kept: dict[Hashable, Denoiser] = {}

    def get(self, key: Hashable, size: int, bind: Callable[[], Denoiser]) -> Denoiser:
        """Return the bound network of a key: a kept one, or what ``bind`` returns.

        Args:
            key: says which slices.
            size: bytes of their modulations.
            bind: computes the modulations.
        """
        if key in self.kept:
            return self.kept[key]
        bound = bind()
        if size <= self.bytes_left:
            self.kept[key] = bound
            self.bytes_left -= size
        return bound
