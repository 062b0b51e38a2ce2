"""Reading masks: whole numbers, and whose numbers they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.labels import LabelSchema, unique_ids
from common.errors import MedpairError
from common.io.nifti import read_volume

_INTEGER = 1e-3  # label values closer than this to an integer are that integer


def find_source(paths: Sequence[Path], schema: LabelSchema, source: str | None) -> str:
    """Find out whose ids a folder of masks uses: the one reading that fits all files.

    Args:
        paths: mask files, at least one.
        schema: its `sources` and its own ids are the readings to choose from.
        source: the user's choice; then no file is opened.

    Returns:
        A name under `schema.sources`, or "schema" for the schema's own ids.

    Raises:
        MedpairError: where no reading fits, or two that differ do (guessing would be silent harm).
    """
    if source is not None:
        schema.source_map(source)
        return source
    values: set[int] = set()
    for path in paths:
        ids, _ = integer_ids(read_volume(path).array, path)
        found = set(unique_ids(ids))
        if not schema.readings(found):
            raise MedpairError(f"{path}: {_no_reading(schema, found)}")
        values |= found
    readings = schema.readings(values)
    if len(set(readings.values())) > 1:
        raise MedpairError(
            f"{paths[0].parent}: label ids {sorted(values)[:12]} fit {' and '.join(readings)} "
            f"of schema {schema.name}; say which with source"
        )
    if not readings:
        raise MedpairError(
            f"{paths[0].parent}: no one source of schema {schema.name} fits all files; "
            "prepare them apart"
        )
    return next(iter(readings))


def _no_reading(schema: LabelSchema, found: set[int]) -> str:
    tables = {name: schema.source_map(name) for name in ("schema", *schema.sources)}
    missing = {name: sorted(v for v in found if v and v not in t) for name, t in tables.items()}
    best = min(missing, key=lambda name: len(missing[name]))
    shown = ", ".join(map(str, missing[best][:8])) + (", ..." if len(missing[best]) > 8 else "")
    return (
        f"label ids {shown} are outside schema {schema.name} (sources {', '.join(tables)}; nearest "
        f"{best}); add them to a source of the schema"
    )


def integer_ids(array: np.ndarray, path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Label values as integers.

    Args:
        array: as read, any numeric type.
        path: the file, for errors.

    Returns:
        An integer array of the same shape, and a warning where floats were rounded.

    Raises:
        MedpairError: for values that are no integers (further off than 1e-3).
    """
    if array.dtype.kind in "iub":
        return array.astype(np.int32), ()
    rounded = np.rint(array)
    gap = np.abs(array - rounded)
    bad = gap > _INTEGER
    if bad.any():
        value = float(array[bad].flat[0])
        raise MedpairError(
            f"{path}: {int(bad.sum())} label values are no integers (for example {value:g}), "
            "wanted ids; resample the mask with nearest neighbour, not linearly"
        )
    notes = (
        (f"{Path(path).name}: float labels rounded by up to {gap.max():.1e}",) if gap.any() else ()
    )
    return rounded.astype(np.int32), notes
