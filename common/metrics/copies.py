"""Copies among generated volumes: which are nearer to a training scan than persons are.

Works on any likeness: larger is more alike, 1 is equal. The threshold is what scans of different
persons reach: the 99th percentile of the likeness of each kept-back scan with the training scan
nearest to it, and not less than the same among the training scans themselves.

N generated volumes, M training scans, K kept-back scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.metrics.membership import membership_auc
from common.metrics.values import Value, mean_of, not_computed, number

Floats = npt.NDArray[np.float64]

PERCENTILE = 99.0
NOBODY = not_computed("there are no scans of different persons to say how alike people are")
NO_HELD_OUT = not_computed("no scans were kept back")
ALONE = not_computed("there is nobody else")
EQUAL = not_computed("a kept-back scan equals the volume")


@dataclass(frozen=True)
class Scans:
    """Names of scans, and the person of each."""

    ids: Sequence[str]
    persons: Sequence[str]


@dataclass(frozen=True)
class Likeness:
    """How alike the volumes of three sets are; NaN where a pair was not compared.

    Attributes:
        made_training: (N, M) generated volumes and training scans.
        made_held_out: (N, K) generated volumes and kept-back scans.
        held_out_training: (K, M); NaN for scans of one person.
        training_training: (M, M); NaN for scans of one person.
        held_out_held_out: (K, K); NaN for scans of one person.
    """

    made_training: Floats
    made_held_out: Floats
    held_out_training: Floats
    training_training: Floats
    held_out_held_out: Floats


def find_copies(
    likeness: Likeness, made: Sequence[str], training: Scans, held_out: Scans
) -> dict[str, object]:
    """Say which generated volumes copy a training scan, and how near all of them come.

    Args:
        likeness: of all sets.
        made: ids of the generated volumes.
        training: the scans that the generator has seen.
        held_out: scans that it has not seen; may be empty.

    Returns:
        ``threshold``; ``references``: per reference ("held_out", "training") ``n`` scans,
        ``persons``, ``percentile`` (the 99th), ``is_maximum`` (so few scans that this is the
        largest), ``median``; ``by_chance``: share of fair volumes that would be called copies;
        ``n_copies`` and ``share`` of the generated, ``n_mem`` training scans that were copied and
        ``copied`` (their ids); ``copies`` (ids); ``ratio`` of the distances (1 - likeness) to the
        nearest training and the nearest kept-back scan: ``median``, ``least``, and ``fair``, the
        median of kept-back scans themselves; ``membership`` (`membership_auc` of the nearest
        generated volume); ``volumes``: per id ``training``, ``likeness``, ``held_out``,
        ``held_out_likeness``, ``ratio``, ``copy``.

    Source: Dar et al., Nat. Biomed. Eng. 2025, 10.1038/s41551-025-01468-8 (N_mem, N_copies).
    """
    references = {
        "held_out": reference(_nearest(likeness.held_out_training), held_out.persons),
        "training": reference(_nearest(likeness.training_training), training.persons),
    }
    known = [r["percentile"] for r in references.values() if not isinstance(r["percentile"], str)]
    threshold: Value = max(float(v) for v in known) if known else NOBODY
    near, away = _nearest(likeness.made_training), _nearest(likeness.made_held_out)
    ratios = _ratios(near, away)
    copy = np.zeros(len(made), np.bool_) if isinstance(threshold, str) else near > threshold
    which = _owners(likeness.made_training)
    copied = sorted({training.ids[j] for j in which[copy]})
    counted = not isinstance(threshold, str)
    return {
        "threshold": threshold,
        "references": references,
        "by_chance": _by_chance(references, threshold),
        "n_copies": int(copy.sum()) if counted else NOBODY,
        "share": float(copy.mean()) if counted and len(made) else NOBODY,
        "n_mem": len(copied) if counted else NOBODY,
        "copied": copied,
        "copies": [name for name, is_copy in zip(made, copy, strict=True) if is_copy],
        "ratio": _ratio_summary(ratios, likeness),
        "membership": _membership(likeness, training, held_out),
        "volumes": {
            name: {
                "training": training.ids[which[row]],
                "likeness": number(near[row], ALONE),
                "held_out": _name(held_out, likeness.made_held_out, row),
                "held_out_likeness": number(away[row], "no scans were kept back"),
                "ratio": ratios[row],
                "copy": bool(copy[row]) if counted else NOBODY,
            }
            for row, name in enumerate(made)
        },
    }


def reference(nearest: Floats, persons: Sequence[str]) -> dict[str, Value]:
    """Describe the likenesses that scans have with the nearest scan of another person.

    Args:
        nearest: one per scan; NaN where there is nobody else.
        persons: the person of each.
    """
    known = nearest[np.isfinite(nearest)]
    count = len({p for p, v in zip(persons, nearest, strict=True) if np.isfinite(v)})
    if not known.size:
        return {"n": 0, "persons": 0, "percentile": NOBODY, "median": NOBODY}
    percentile = float(np.percentile(known, PERCENTILE, method="higher"))
    return {
        "n": known.size,
        "persons": count,
        "percentile": percentile,
        "is_maximum": bool(percentile == known.max()),
        "median": float(np.median(known)),
    }


def _by_chance(references: dict[str, dict[str, Value]], threshold: Value) -> Value:
    """Return how often a fair volume exceeds the largest of the scans behind the threshold."""
    counts = [int(r["persons"]) for r in references.values()]
    if isinstance(threshold, str):
        return threshold
    return max(1 - PERCENTILE / 100, 1 / (sum(counts) + 1))


def _nearest(likeness: Floats) -> Floats:
    """Return the largest likeness of each row, NaN for a row without any."""
    if not likeness.shape[1]:
        return np.full(len(likeness), np.nan)
    return np.asarray(np.fmax.reduce(likeness, axis=1), np.float64)


def _owners(likeness: Floats) -> npt.NDArray[np.intp]:
    if not likeness.shape[1]:
        return np.zeros(len(likeness), np.intp)
    return np.asarray(np.where(np.isnan(likeness), -np.inf, likeness).argmax(axis=1))


def _name(scans: Scans, likeness: Floats, row: int) -> str:
    return scans.ids[_owners(likeness)[row]] if len(scans.ids) else NO_HELD_OUT


def _ratios(near: Floats, away: Floats) -> list[Value]:
    return [_ratio(float(a), float(b)) for a, b in zip(near, away, strict=True)]


def _ratio(near: float, away: float) -> Value:
    if not np.isfinite([near, away]).all():
        return NO_HELD_OUT
    return (1 - near) / (1 - away) if away < 1 else EQUAL


def _ratio_summary(ratios: Sequence[Value], likeness: Likeness) -> dict[str, Value]:
    known = [float(r) for r in ratios if not isinstance(r, str)]
    held = _nearest(likeness.held_out_training), _nearest(likeness.held_out_held_out)
    fair = [float(r) for r in _ratios(*held) if not isinstance(r, str)]
    return {
        "median": float(np.median(known)) if known else NO_HELD_OUT,
        "mean": mean_of(known, "no scans were kept back"),
        "least": min(known) if known else NO_HELD_OUT,
        "fair": float(np.median(fair)) if fair else NO_HELD_OUT,
    }


def _membership(likeness: Likeness, training: Scans, held_out: Scans) -> dict[str, Value]:
    """Score scans by the generated volume that is nearest; those that none comes near score -1."""
    seen, unseen = (
        np.nan_to_num(_nearest(matrix.T), nan=-1.0)
        for matrix in (likeness.made_training, likeness.made_held_out)
    )
    return membership_auc(seen, unseen, training.persons, held_out.persons)
