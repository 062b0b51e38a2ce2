"""Pairs as DICOM studies."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import common
from common.data.datasets import PairSet
from common.data.export import on_own_grid
from common.data.geometry import to_ras
from common.data.provenance import provenance_of
from common.errors import MedpairError
from common.progress import Progress, silent


def export_dicom(
    pairset: PairSet,
    out: str | Path,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write pairs as DICOM: for each a study of an image series and a SEG.

    Args:
        pairset: the pair set; its schema gives the codes of the segments.
        out: folder; gets ``<id>/image/NNNN.dcm`` and ``<id>/segmentation.dcm``.
        ids: of the pairs; None takes all.
        progress: called with ("dicom", pairs done, pairs in all).

    Returns:
        The folders of the studies.

    Raises:
        MedpairError: for labels without a code, an unknown id, or damaged files.
    """
    uncoded = [label.name for label in pairset.schema.labels if label.code is None]
    if uncoded:
        raise MedpairError(
            f"schema {pairset.schema.name}: no code for {', '.join(uncoded)}; add code: {{value: "
            "..., meaning: ...} to them, as common/data/schemas/brain4.yaml has them"
        )
    chosen, told = list(ids or pairset.ids()), progress or silent
    folders = []
    told("dicom", 0, len(chosen))
    for done, identity in enumerate(chosen, start=1):
        folders.append(_export(pairset, identity, Path(out)))
        told("dicom", done, len(chosen))
    return folders


def _export(pairset: PairSet, identity: str, out: Path) -> Path:
    from common.io.dicom_out import Study, mr_scale, write_study

    record = pairset.record(identity)
    image, label, affine = on_own_grid(pairset, identity)
    image_ras, affine_ras = to_ras(image, affine)
    label_ras, _ = to_ras(label, affine)
    origin = provenance_of(pairset.header, record)
    says = (identity, record["image_sha256"], record["label_sha256"], common.__version__)
    study = Study(
        id=identity,
        schema=pairset.schema,
        entropy=" ".join((*says, json.dumps(pairset.schema.to_dict(), sort_keys=True))),
        derivation=origin.says(),
        synthetic=origin.synthetic,
        drawn=origin.draws_mask,
        scale=mr_scale(image_ras) if pairset.schema.modality == "MR" else 1.0,
    )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".tmp-") as scratch:
        made = Path(scratch) / identity
        write_study(
            made, study, np.ascontiguousarray(image_ras), label_ras.astype(np.uint8), affine_ras
        )
        shutil.rmtree(out / identity, ignore_errors=True)  # of an earlier export
        made.rename(out / identity)  # whole or not at all
    return out / identity
