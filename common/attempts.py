"""Attempts at a pair: the noise of the next one, and the pairs that a gate refused.

Refused pairs lie in the folder ``rejected`` of the pair set, a pair set of its own whose manifest
says why; they tell a run that is started again what was tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.data.datasets import Pair, PairSet
from common.data.sidesets import open_side
from common.errors import IncompleteError

REJECTED = "rejected"
_LISTED = 10


def attempt_seed(seed: int, attempt: int) -> int:
    """Return the seed that keys the noise of an attempt; the first one has the run's own.

    Args:
        seed: the run's seed, 0..2^64-1.
        attempt: 0 for the first.

    Returns:
        0..2^64-1; later attempts take a hash, so that they meet no other run's seed.
    """
    if attempt == 0:
        return seed
    said = f"medpair attempt {attempt} of seed {seed}".encode()
    return int.from_bytes(hashlib.sha256(said).digest()[:8], "big")


class Attempts:
    """How often each pair of a set was refused; kept on disk in its folder ``rejected``.

    Args:
        pairs: the pair set.
        retries: attempts after the first.
    """

    def __init__(self, pairs: PairSet, retries: int) -> None:
        self.pairs, self.most = pairs, retries + 1
        known = (pairs.dir / REJECTED / "dataset.json").is_file()
        self.rejected = open_side(pairs, REJECTED) if known else None

    def refused(self, identity: str) -> int:
        """Return how many attempts at a pair were refused."""
        if self.rejected is None:
            return 0
        count = 0
        while f"{identity}_a{count}" in self.rejected.manifest:
            count += 1
        return count

    def spent(self, identity: str) -> bool:
        """Return whether no attempt at a pair is left."""
        return self.refused(identity) >= self.most

    def refuse(
        self, pair: Pair, attempt: int, faults: Sequence[str], record: Mapping[str, Any]
    ) -> None:
        """Keep a refused pair; what is no number in its image is 0 in the copy.

        Args:
            pair: the pair.
            attempt: 0 for the first.
            faults: what is wrong with it.
            record: its manifest line.
        """
        if self.rejected is None:
            self.rejected = open_side(self.pairs, REJECTED)
        image = np.nan_to_num(pair.image, nan=0.0, posinf=0.0, neginf=0.0)
        kept = replace(pair, id=f"{pair.id}_a{attempt}", image=image)
        said = {**record, "person": pair.id, "attempt": attempt, "faults": list(faults)}
        self.rejected.write(kept, said)

    def check(self, wanted: Sequence[str]) -> None:
        """Raise IncompleteError if one of the wanted pairs has failed all attempts."""
        failed = [identity for identity in wanted if self.spent(identity)]
        failed = [identity for identity in failed if identity not in self.pairs.manifest]
        if failed:
            more = f" and {len(failed) - _LISTED} more" if len(failed) > _LISTED else ""
            raise IncompleteError(
                f"gate: {len(failed)} of {len(wanted)} pairs failed all {self.most} attempts "
                f"({', '.join(failed[:_LISTED])}{more}); {self.pairs.dir / REJECTED} has them with "
                "the reasons; use another seed, or --no-gate with another --out"
            )
