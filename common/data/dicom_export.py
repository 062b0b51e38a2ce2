"""Pairs as DICOM studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
    from common.io.dicom_out import Study, write_study

    uncoded = [label.name for label in pairset.schema.labels if label.code is None]
    if uncoded:
        raise MedpairError(
            f"schema {pairset.schema.name}: no code for {', '.join(uncoded)}; add code: {{value: "
            "..., meaning: ...}} to them, as common/data/schemas/brain4.yaml has them"
        )
    chosen, told = list(ids or pairset.ids()), progress or silent
    folders = []
    told("dicom", 0, len(chosen))
    for done, identity in enumerate(chosen, start=1):
        record = pairset.record(identity)
        image, label, affine = on_own_grid(pairset, identity)
        origin = provenance_of(pairset.header, record)
        study = Study(
            id=identity,
            schema=pairset.schema,
            entropy=f"{record['image_sha256']} {record['label_sha256']}",
            derivation=origin.says(),
            synthetic=origin.synthetic,
        )
        image_ras, affine_ras = to_ras(image, affine)
        label_ras, _ = to_ras(label, affine)
        folder = Path(out) / identity
        write_study(
            folder, study, np.ascontiguousarray(image_ras), label_ras.astype(np.uint8), affine_ras
        )
        folders.append(folder)
        told("dicom", done, len(chosen))
    return folders
