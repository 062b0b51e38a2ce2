"""Evaluation of generated masks against a real pair set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.data.datasets import PairSet, load_arrays
from common.data.labels import LabelSchema
from common.data.views import to_dhw
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.nifti import read_volume
from common.metrics.mask_report import evaluate_masks


def report_masks(
    dataset_dir: str, synthetic_dir: str, output_dir: str, repeats: int = 50, seed: int = 0
) -> Path:
    """Write ``report.json``: realism, anatomical rules and novelty of generated masks.

    Args:
        dataset_dir: pair set of real scans (both splits are read), or a phantom string.
        synthetic_dir: a pair set or a folder with ``labels/*.nii.gz``.
        output_dir: gets the report.
        repeats: random splits of the real persons for the floors.
        seed: of the splits.

    Returns:
        The report's path.

    Raises:
        MedpairError: if a set is empty or the sets do not fit together.
    """
    sets = [load_arrays(dataset_dir, split) for split in ("training", "validation")]
    schema, spacing = sets[0].schema, sets[0].spacing
    ids = [identity for s in sets for identity in s.ids]
    report = evaluate_masks(
        read_masks(Path(synthetic_dir), schema),
        [label for s in sets for label in s.labels],
        _persons(dataset_dir, ids),
        schema,
        spacing or (1.0, 1.0, 1.0),
        trained_on=[split == 0 for split, s in enumerate(sets) for _ in s.ids],
        repeats=repeats,
        seed=seed,
    )
    path = Path(output_dir) / "report.json"
    write_json(path, report)
    return path


def read_masks(folder: Path, schema: LabelSchema) -> list[npt.NDArray[np.uint8]]:
    """Return the masks of a folder, in the order of their names.

    Raises:
        MedpairError: if it holds none or is of another schema.
    """
    if (folder / "dataset.json").is_file():
        pairset = PairSet.open(folder)
        if pairset.schema.name != schema.name:
            raise MedpairError(
                f"{folder}: schema {pairset.schema.name}, wanted {schema.name}; "
                "generate that schema"
            )
    files = sorted((folder / "labels").glob("*.nii.gz"))
    if not files:
        raise MedpairError(f"{folder}: no labels/*.nii.gz; run inference.yaml or medpair generate")
    volumes = (to_dhw(read_volume(file).array, schema.slice_axis) for file in files)
    return [np.ascontiguousarray(volume, dtype=np.uint8) for volume in volumes]


def _persons(dataset_dir: str, ids: list[str]) -> list[str]:
    if dataset_dir.startswith("phantom:"):
        return ids
    pairset = PairSet.open(dataset_dir)
    return [pairset.person(identity) for identity in ids]
