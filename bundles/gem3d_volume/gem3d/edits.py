"""Edited masks for counterfactual images: drawn by hand as a label file, or listed as operations.

- {op: move, label: lesion, mm: [5, 0, 0]}          # D, H, W; at: [d, h, w] picks one piece
- {op: scale, label: WT, factor: 1.3, clip: 0.1}    # a group of labels as one structure
- {op: dilate, label: enhancing, mm: 2, over: [edema, brain]}
- {op: erode, label: edema, mm: 2}
- {op: remove, label: lesion}
- {op: add_sphere, label: lesion, centre_fraction: [0.5, 0.4, 0.6], radius_mm: 6}
- {op: rotate, degrees: [0, 0, 10]}
- {op: flip}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from common.data.geometry import same_place, to_ras
from common.data.labels import LabelSchema
from common.data.sources import integer_ids
from common.data.views import to_dhw, triple_to_dhw, triple_to_ras
from common.errors import MedpairError
from common.io.manifest import sha256
from common.io.nifti import SUFFIXES, read_volume
from gem3d.operation_lists import apply_operations, read_operations, rules_broken, rules_kept
from gem3d.operations import Frame
from gem3d.structures import ImpossibleError, LabelMap, Mask

Affine = npt.NDArray[np.float64]
_TEXT = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Edit:
    """An edited mask.

    Attributes:
        label: the edited mask, (D, H, W) uint8.
        changed: where it differs from the original, (D, H, W).
        record: JSON-ready: the edit's file or operations, what was done, `changed_voxels`, voxels
            of each label before and after, anatomical rules that only the original keeps, and
            `said` where the edit, or a part of it, changed nothing.
    """

    label: LabelMap
    changed: Mask
    record: dict[str, Any]


def read_edit(
    edit: str | Path | Sequence[Mapping[str, Any]],
    label: LabelMap,
    affine: Affine,
    schema: LabelSchema,
) -> Edit:
    """Read an edit and apply it to a mask.

    Args:
        edit: an edited label file on the mask's grid, a YAML file with a list of operations, or
            that list.
        label: the mask, (D, H, W) uint8; not changed.
        affine: the mask's RAS voxel indices (not D, H, W) to mm, (4, 4), as `Pair.affine`.
        schema: the mask's schema.

    Returns:
        The edited mask.

    Raises:
        MedpairError: for a file that is missing, of another grid, or holds other labels; for
            operations that do not exist or cannot be done, with the entry's number.
    """
    kept = rules_kept(label, schema)
    if not isinstance(edit, str | Path):
        edited, record = _operate(edit, label, affine, schema, "edit")
    elif str(edit).lower().endswith(SUFFIXES):
        edited, record = _drawn(Path(edit), label, affine, schema)
    else:
        edited, record = _operate(_entries(Path(edit)), label, affine, schema, str(edit))
        record = {"file": Path(edit).name, "sha256": sha256(edit)} | record
    changed = np.asarray(edited != label)
    if not changed.any():
        record.setdefault("said", "no voxel differs from the mask")
    return Edit(edited, changed, record | _effect(label, edited, schema, kept))


def _effect(
    label: LabelMap, edited: LabelMap, schema: LabelSchema, kept: set[tuple[str, str]]
) -> dict[str, Any]:
    count = schema.num_classes
    before, after = (np.bincount(m.ravel(), minlength=count).tolist() for m in (label, edited))
    return {
        "changed_voxels": int((edited != label).sum()),
        "voxels_before": dict(zip(schema.names, before, strict=True)),
        "voxels_after": dict(zip(schema.names, after, strict=True)),
        "rules_broken": rules_broken(kept, edited, schema),
    }


def _entries(path: Path) -> Any:
    if path.suffix.lower() not in _TEXT:
        raise MedpairError(
            f"{path}: wanted {', '.join(SUFFIXES)} (an edited mask) or {', '.join(_TEXT)} (a list "
            "of operations); name the file so"
        )
    if not path.is_file():
        raise MedpairError(f"{path}: no such file; correct the path")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise MedpairError(f"{path}: not YAML ({reason}); correct it") from error


def _operate(
    entries: Any, label: LabelMap, affine: Affine, schema: LabelSchema, origin: str
) -> tuple[LabelMap, dict[str, Any]]:
    """Apply the entries one by one, so that an error names its own."""
    operations = read_operations(entries, schema, origin)
    right, anterior, superior = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).tolist()
    frame = Frame(schema, triple_to_dhw((right, anterior, superior), schema.slice_axis))
    edited, done = label.copy(), []
    for number, operation in enumerate(operations, start=1):
        try:
            edited, applied = apply_operations(edited, [operation], frame)
        except MedpairError as error:
            repair = "; change it less, or allow it with clip or over"
            tail = repair if isinstance(error, ImpossibleError) else ""
            raise MedpairError(
                f"{origin}, entry {number} ({operation.op}): {error}{tail}"
            ) from error
        done += applied
    record: dict[str, Any] = {"operations": [o.to_dict() for o in operations], "applied": done}
    said = [f"entry {i}: {a['said']}" for i, a in enumerate(done, start=1) if "said" in a]
    return edited, record | ({"said": "; ".join(said)} if said else {})


def _drawn(
    path: Path, label: LabelMap, affine: Affine, schema: LabelSchema
) -> tuple[LabelMap, dict[str, Any]]:
    volume = read_volume(path)
    array, found = to_ras(volume.array, volume.affine)
    d, h, w = label.shape
    size = triple_to_ras((d, h, w), schema.slice_axis)
    if array.shape != size or not same_place(size, np.asarray(affine), found):
        raise MedpairError(
            f"{path}: a grid of {_grid(array.shape, found)}, want the mask's, "
            f"{_grid(size, affine)}; draw on a copy of the mask"
        )
    ids, warnings = integer_ids(array, path)
    try:
        edited = schema.remap(ids)
    except MedpairError as error:
        raise MedpairError(f"{path}: {error}") from error
    record: dict[str, Any] = {"file": path.name, "sha256": sha256(path), "operations": []}
    said = [*volume.warnings, *warnings]
    return np.ascontiguousarray(to_dhw(edited, schema.slice_axis)), record | (
        {"warnings": said} if said else {}
    )


def _grid(shape: Sequence[int], affine: Affine) -> str:
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    corner = np.asarray(affine)[:3, 3]
    voxels, mm = "x".join(map(str, shape)), "x".join(f"{s:.4g}" for s in spacing)
    return f"{voxels} voxels of {mm} mm from {[round(float(c), 1) for c in corner]} (R, A, S)"
