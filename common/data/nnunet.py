"""Pair sets as one raw data set of nnU-Net v2, with splits that validate on real scans alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import PairSet
from common.data.export import raw_bounds
from common.data.intensity import denormalise
from common.data.labels import LabelSchema
from common.data.nnunet_cases import Case, Plan, Source, find_cases, plan_splits
from common.data.views import from_dhw
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.manifest import sha256
from common.io.nifti import write_volume
from common.progress import Progress, silent

FORMAT = "medpair-nnunet-export-1"
ENDING = ".nii.gz"


@dataclass(frozen=True)
class Export:
    """A raw data set on disk.

    Attributes:
        folder: ``DatasetXXX_NAME``.
        plan: its cases, their folds, and the pairs that were left out.
        regions: whether nnU-Net trains on the schema's groups; else the reason why not.
    """

    folder: Path
    plan: Plan
    regions: bool | str

    def image(self, case: Case) -> Path:
        """Return the image file of a case."""
        return self._file(case, "images", "_0000")

    def label(self, case: Case) -> Path:
        """Return the mask file of a case."""
        return self._file(case, "labels", "")

    def lines(self) -> list[str]:
        """Return what a user wants to know of it, line by line."""
        plan = self.plan
        real = sum(case.real for case in plan.training)
        lines = [
            f"{self.folder}: {len(plan.training)} cases ({real} real), {len(plan.test)} kept back",
            f"{self.folder / 'splits_final.json'}: copy it into nnUNet_preprocessed/"
            f"{self.folder.name} after planning, before training",
        ]
        if plan.left_out:
            lines.append(f"left out: {len(plan.left_out)} generated pairs of kept-back persons")
        if self.regions is not True:
            lines.append(f"no regions: {self.regions}")
        return lines

    def _file(self, case: Case, kind: str, suffix: str) -> Path:
        part = "Ts" if case in self.plan.test else "Tr"
        return self.folder / f"{kind}{part}" / f"{case.name}{suffix}{ENDING}"


def export_nnunet(
    sources: Sequence[Source],
    out: str | Path,
    *,
    dataset_id: int = 501,
    folds: int = 1,
    progress: Progress | None = None,
) -> Export:
    """Write pair sets as ``DatasetXXX_NAME`` in the raw format of nnU-Net v2.

    ``imagesTr`` and ``labelsTr`` hold what trains or validates, ``splits_final.json`` says which in
    each fold; nnU-Net reads it from its folder of preprocessed data. With several folds,
    ``imagesTs`` and ``labelsTs`` hold the real scans that were kept back. CT is written in
    Hounsfield units, MR as the pair set has it: nnU-Net scales each scan itself, and generated
    scans have no raw scale. ``medpair.json`` says where each case comes from.

    Args:
        sources: pair sets of one schema and spacing; generated ones beside real ones.
        out: folder of the data set.
        dataset_id: XXX, 1..999.
        folds: 1 validates on the kept-back real scans; K >= 2 on each of K parts of the real
            persons in training.
        progress: called with ("nnunet", written cases, cases).

    Returns:
        The data set; written again, finished files are replaced by equal ones.

    Raises:
        MedpairError: for sets that do not fit together, a person on both sides, too few real
            scans, or a folder that holds another export.
    """
    if not 1 <= dataset_id <= 999:
        raise MedpairError(f"--dataset-id: {dataset_id}, wanted 1..999; choose another number")
    schema = _one_schema([source.pairset for source in sources])
    plan = plan_splits(find_cases(sources), folds)
    folder = Path(out) / f"Dataset{dataset_id:03d}_{schema.name}"
    labels, order, regions = label_table(schema)
    export = Export(folder, plan, regions)
    _claim(folder, _description(sources, export, folds))
    cases = [*plan.training, *plan.test]
    for done, case in enumerate(cases, start=1):
        _write_case(export, case, schema)
        (progress or silent)("nnunet", done, len(cases))
    write_json(folder / "splits_final.json", plan.splits)
    header = {
        "channel_names": {"0": schema.modality},  # "CT" gets its window, any other name a z-score
        "labels": labels,
        **({"regions_class_order": order} if order else {}),
        "numTraining": len(plan.training),
        "file_ending": ENDING,
        "name": folder.name,
    }
    write_json(folder / "dataset.json", header)  # last: without it nnU-Net sees no data set
    return export


def export_folders(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    test: str | Path | None = None,
    copies: int | None = None,
    dataset_id: int = 501,
    folds: int = 1,
    progress: Progress | None = None,
) -> Export:
    """Join pair sets by their folders, see `export_nnunet`.

    Args:
        folders: pair sets, real and generated.
        out: folder of the data set.
        test: further pair set, of whose pairs only the kept-back ones take part.
        copies: at most so many generated pairs per mask; None for all.
        dataset_id: XXX of the data set's name.
        folds: 1, or parts of a cross-validation by person.
        progress: see `export_nnunet`.

    Raises:
        MedpairError: see `export_nnunet`.
    """
    sources = [Source(PairSet.open(folder), None, copies) for folder in folders]
    if test is not None and Path(test).resolve() not in [Path(f).resolve() for f in folders]:
        sources.append(Source(PairSet.open(test), "validation"))
    return export_nnunet(sources, out, dataset_id=dataset_id, folds=folds, progress=progress)


def label_table(
    schema: LabelSchema,
) -> tuple[dict[str, int | list[int]], list[int], bool | str]:
    """Return what nnU-Net calls labels: single ones, or regions where the schema has groups.

    nnU-Net predicts each region by itself and writes one label per region, larger regions first,
    so groups can only be used where each leaves exactly one label to no smaller one.

    Args:
        schema: the schema.

    Returns:
        ``labels`` with "background" 0; ``regions_class_order``, empty without regions; True, or
        the reason why there are none.
    """
    plain: dict[str, int | list[int]] = {name: i for i, name in enumerate(schema.names)}
    if not schema.groups:
        return plain, [], f"schema {schema.name} has no groups"
    grouped = {i for members in schema.groups.values() for i in members}
    single = {label.name: (label.id,) for label in schema.labels if label.id not in grouped}
    regions = sorted({**schema.groups, **single}.items(), key=lambda item: -len(set(item[1])))
    order: list[int] = []
    for place, (_, members) in enumerate(regions):
        later = [set(other) for _, other in regions[place + 1 :]]
        inner = [other for other in later if other <= set(members)]
        own = set(members).difference(*inner)
        crossing = [other for other in later if other & set(members) and other not in inner]
        if len(own) != 1 or crossing:
            return plain, [], f"the groups of schema {schema.name} are not nested one label apart"
        order += own
    return {"background": 0, **{name: sorted(set(m)) for name, m in regions}}, order, True


def _one_schema(sets: Sequence[PairSet]) -> LabelSchema:
    first = sets[0]
    for other in sets[1:]:
        seen, wanted = ((s.schema.name, s.schema.names, s.spacing) for s in (other, first))
        if seen != wanted:
            raise MedpairError(
                f"{other.dir}: schema {seen[0]} of {len(seen[1])} classes, spacing {seen[2]}, "
                f"wanted {wanted[0]} of {len(wanted[1])}, {wanted[2]} as {first.dir}; join pair "
                "sets that were prepared alike"
            )
    return first.schema


def _description(sources: Sequence[Source], export: Export, folds: int) -> dict[str, Any]:
    sets = [
        {
            "name": source.pairset.dir.name,
            "manifest_sha256": sha256(source.pairset.manifest.path),
            "split": source.split,
            "copies": source.copies,
        }
        for source in sources
    ]
    plan = export.plan
    return {
        "format": FORMAT,
        "settings": {"sets": sets, "folds": folds, "dataset": export.folder.name},
        "regions": export.regions,
        "cases": {case.name: case.to_dict() for case in (*plan.training, *plan.test)},
        "left_out": dict(plan.left_out),
    }


def _claim(folder: Path, description: Mapping[str, Any]) -> None:
    """Say what the folder is going to hold, before the first volume; refuse another export's."""
    path = folder / "medpair.json"
    if path.is_file():
        same = json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(description))
    else:
        same = not folder.exists() or not any(folder.iterdir())
    if not same:
        raise MedpairError(
            f"{folder}: holds something else than these pair sets in these folds, wanted a new "
            "folder or the same export; choose another --out or --dataset-id, or delete it"
        )
    write_json(path, description)


def _write_case(export: Export, case: Case, schema: LabelSchema) -> None:
    pair, record = case.pairset.read(case.id), case.pairset.record(case.id)
    image = pair.image
    if schema.modality == "CT":
        image = denormalise(image, *raw_bounds(case.pairset, record))
    axis = schema.slice_axis
    write_volume(export.image(case), from_dhw(image, axis), pair.affine)
    write_volume(export.label(case), from_dhw(pair.label.astype(np.uint8), axis), pair.affine)
