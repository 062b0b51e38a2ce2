"""Membership: do generated volumes tell the scans of a training from scans that were kept back?

M training scans, K kept-back scans, R re-drawn samples.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.errors import MedpairError
from common.metrics.floor import check_persons
from common.metrics.values import Value, not_computed

Floats = npt.NDArray[np.float64]

NO_SCANS = not_computed("it needs training scans and kept-back scans")


def membership_auc(
    training: Floats,
    held_out: Floats,
    training_persons: Sequence[str],
    held_out_persons: Sequence[str],
    *,
    level: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> dict[str, Value]:
    """Return how well a score tells training scans from kept-back ones.

    Args:
        training: (M,) score of each training scan, such as the likeness of the generated volume
            that is nearest to it; higher should mean seen.
        held_out: (K,) score of each kept-back scan.
        training_persons: the person of each training scan; persons are re-drawn with all scans.
        held_out_persons: the person of each kept-back scan.
        level: of the interval, in (0, 1).
        repeats: R.
        seed: of the draws.

    Returns:
        ``auc``: 0.5 where nothing tells, 1 where every training scan scores higher; its interval
        ``low``, ``high``; ``n_training``, ``n_held_out`` scans and ``n_persons`` kept back.
        Reasons where a set is empty, or has one person alone.

    Raises:
        MedpairError: if persons do not match the scores, or a level outside its range.
    """
    check_persons(training_persons, len(training), "scans")
    check_persons(held_out_persons, len(held_out), "scans")
    if not 0 < level < 1 or repeats < 1:
        raise MedpairError(f"level: {level}, repeats: {repeats}; wanted (0, 1) and >= 1")
    found: dict[str, Value] = {
        "n_training": len(training),
        "n_held_out": len(held_out),
        "n_persons": len(set(held_out_persons)),
    }
    if not len(training) or not len(held_out):
        return {**dict.fromkeys(("auc", "low", "high"), NO_SCANS), **found}
    higher_MK = (training[:, None] > held_out) + 0.5 * (training[:, None] == held_out)
    rng = np.random.default_rng(seed)
    weights = [_drawn(names, repeats, rng) for names in (training_persons, held_out_persons)]
    low, high = _interval(higher_MK, weights, level)
    return {"auc": float(higher_MK.mean()), "low": low, "high": high, **found}


def _drawn(persons: Sequence[str], repeats: int, rng: np.random.Generator) -> Floats | None:
    """Return how often each scan is drawn (R, scans); None for one person."""
    names, owner = np.unique(np.array(persons), return_inverse=True)
    if len(names) < 2:
        return None
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=repeats)
    return np.asarray(counts[:, owner], np.float64)


def _interval(higher_MK: Floats, weights: list[Floats | None], level: float) -> tuple[Value, Value]:
    rows, columns = weights
    if rows is None or columns is None:
        reason = not_computed("the interval needs at least 2 persons in both sets")
        return reason, reason
    wins = np.einsum("rm,mk,rk->r", rows, higher_MK, columns, optimize=True)
    values = wins / (rows.sum(axis=1) * columns.sum(axis=1))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
