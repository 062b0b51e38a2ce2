"""Values out of reports whose parts are optional: a number, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.metrics.values import Value, not_computed

_REASON = not_computed("")


def is_reason(found: object) -> bool:
    """Return whether a text says why there is no number."""
    return isinstance(found, str) and found.startswith(_REASON.strip())


def dig(tree: Any, *keys: str) -> Any:
    """Return what stands under keys of a report, or a text that says why there is nothing.

    Args:
        tree: the report or a part of it; a reason is passed on.
        keys: one below the other.
    """
    for key in keys:
        if is_reason(tree):
            return tree
        if not isinstance(tree, Mapping) or key not in tree:
            return not_computed(f"the report holds no {' / '.join(keys)}")
        tree = tree[key]
    return tree


def number_at(tree: Any, *keys: str) -> Value:
    """Return the number under keys of a report, or the reason why there is none.

    Args:
        tree: the report or a part of it.
        keys: one below the other.
    """
    found = dig(tree, *keys)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return found if is_reason(found) else not_computed(f"no number for {' / '.join(keys)}")
    return found if math.isfinite(found) else not_computed(f"{keys[-1]} is not finite")


def parts_at(tree: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping under keys of a report; an empty one where there is none.

    Args:
        tree: the report or a part of it.
        keys: one below the other.
    """
    found = dig(tree, *keys)
    return dict(found) if isinstance(found, Mapping) else {}


def reason_at(tree: Any, *keys: str) -> str | None:
    """Return why there is no part under keys of a report; None where there is one.

    Args:
        tree: the report or a part of it.
        keys: one below the other.
    """
    found = dig(tree, *keys)
    if isinstance(found, Mapping):
        return None
    return found if is_reason(found) else not_computed(f"no part {' / '.join(keys)}")


def without(tree: Any, *keys: str) -> Any:
    """Return a mapping without some of its keys; anything else as it is."""
    if not isinstance(tree, Mapping):
        return tree
    return {key: value for key, value in tree.items() if key not in keys}


def brief(value: Value, signed: bool = False) -> str:
    """Return a number as a table shows it, about three digits; a reason as it is.

    Args:
        value: the number.
        signed: with + or -, and three decimals, as a difference.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:+d}" if signed else str(value)
    size = abs(value)
    if signed:
        return f"{value:+.3f}" if size >= 0.001 or not value else f"{value:+.1g}"
    if size >= 1000 or not size:
        return f"{value:,.0f}"
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}" if size >= 0.1 else f"{value:.3g}"
