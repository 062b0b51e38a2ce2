"""The pair set: the folder that prepare and generate write, and training and evaluation read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common.data.checks import check_pair
from common.data.labels import LabelSchema
from common.data.provenance import provenance_of
from common.data.views import from_dhw, to_dhw
from common.errors import MedpairError
from common.io.atomic import append_jsonl, write_json
from common.io.lock import brief
from common.io.manifest import Manifest, Record, sha256
from common.io.nifti import read_volume, write_volume

FORMAT = "medpair-pairset-1"
SPLITS = ("training", "validation")
Spacing = tuple[float, float, float]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    `image` float32 (D, H, W), about [0, 1]; `label` uint8 (D, H, W), schema ids; `affine` maps the
    voxel indices of the RAS file (not of D, H, W) to mm.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Arrays:
    """Pairs in memory: ids, images float32 (D, H, W), labels uint8 (D, H, W), and their schema."""

    ids: tuple[str, ...]
    images: list[np.ndarray]
    labels: list[np.ndarray]
    schema: LabelSchema
    spacing: Spacing | None = None


class SetHeader:
    """What the header of a pair set says, whether the set is a folder or one file.

    Attributes:
        header: its content without the pairs.
        origin: the file that it stands in, for messages.
    """

    header: dict[str, Any]
    origin: Path

    @cached_property
    def schema(self) -> LabelSchema:
        """What the masks mean."""
        return LabelSchema.from_dict(self.header["schema"], origin=str(self.origin))

    @property
    def spacing(self) -> Spacing | None:
        """Voxel size in mm (D, H, W), None where it differs from pair to pair."""
        value = self.header["spacing"]
        return (float(value[0]), float(value[1]), float(value[2])) if value else None

    @property
    def size(self) -> Size | None:
        """Voxels (D, H, W), None where it differs from pair to pair."""
        value = self.header["size"]
        return (int(value[0]), int(value[1]), int(value[2])) if value else None


class PairSet(SetHeader):
    """A folder of pairs; open it with `PairSet.open`, make it with `PairSet.create`."""

    def __init__(self, directory: Path, header: Mapping[str, Any]) -> None:
        """Use `open` or `create` instead.

        Args:
            directory: the pair set's folder.
            header: the content of `dataset.json` without its lists of pairs.
        """
        self.dir = directory
        self.header, self.origin = dict(header), directory / "dataset.json"
        self.manifest = Manifest(directory / "manifest.jsonl")

    @classmethod
    def open(cls, directory: str | Path) -> "PairSet":
        """Open an existing pair set.

        Raises:
            MedpairError: where the folder is missing or holds no pair set.
        """
        directory = Path(directory)
        path = directory / "dataset.json"
        if not path.is_file():
            raise MedpairError(
                f"{directory}: no pair set (no dataset.json); make one with medpair prepare"
            )
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
            kind = header.get("format")
        except (ValueError, AttributeError) as error:
            raise MedpairError(
                f"{path}: not a JSON object ({error}); make the pair set again"
            ) from error
        if kind != FORMAT:
            raise MedpairError(
                f"{path}: format {kind}, wanted {FORMAT}; make a pair set with medpair prepare"
            )
        return cls(
            directory, {k: v for k, v in header.items() if k not in (*SPLITS, "numTraining")}
        )

    @classmethod
    def create(
        cls,
        directory: str | Path,
        schema: LabelSchema,
        spacing: Spacing | None,
        size: Size | None,
        intensity: Mapping[str, Any],
        **info: Any,
    ) -> "PairSet":
        """Make a pair set, or continue one that was begun with the same settings.

        Args:
            directory: its folder; missing, empty, or a pair set of equal settings.
            schema: what the masks mean.
            spacing: voxel size in mm (D, H, W); None where it differs from pair to pair.
            size: voxels (D, H, W); None where it differs from pair to pair.
            intensity: how raw intensities became about [0, 1].
            info: further JSON-ready settings that every pair of the set shares.

        Returns:
            The pair set, with the pairs that it already holds.

        Raises:
            MedpairError: where the folder holds something else.
        """
        directory = Path(directory)
        header = _header(schema, spacing, size, intensity, info)
        if (directory / "dataset.json").is_file():
            existing = cls.open(directory)
            _same_settings(directory, existing.header, header)
            existing.refresh()  # a crash may have come between manifest and datalist
            return existing
        if directory.exists() and (not directory.is_dir() or any(_visible(directory))):
            raise MedpairError(
                f"{directory}: exists and is no pair set, wanted a new or empty folder; "
                "choose another"
            )
        made = cls(directory, header)
        made._write_datalist()
        return made

    @property
    def intensity(self) -> dict[str, Any]:
        """How raw intensities became about [0, 1]."""
        return dict(self.header["intensity"])

    def ids(self, split: str | None = None) -> tuple[str, ...]:
        """Ids of the finished pairs, sorted.

        Args:
            split: "training" or "validation"; None for all.

        Raises:
            MedpairError: for another split.
        """
        if split is not None and split not in SPLITS:
            raise MedpairError(f"split '{split}' is unknown; choose {' or '.join(SPLITS)}")
        return tuple(r["id"] for r in self.manifest if split in (None, r["split"]))

    def record(self, identity: str) -> Record:
        """The manifest line of a finished pair.

        Raises:
            MedpairError: for an id that the set does not hold.
        """
        if identity not in self.manifest:
            raise MedpairError(
                f"{self.dir}: no pair '{identity}' among {len(self.manifest)}; see manifest.jsonl"
            )
        return self.manifest[identity]

    def person(self, identity: str) -> str:
        """The person (or phantom, or seed) that a pair shows."""
        return str(self.record(identity)["person"])

    def paths(self, identity: str) -> tuple[Path, Path]:
        """The files of a pair: image and mask, whether finished or not."""
        name = f"{identity}.nii.gz"
        return self.dir / "images" / name, self.dir / "labels" / name

    def read(self, identity: str) -> Pair:
        """Read a finished pair.

        Raises:
            MedpairError: for an unknown id or damaged files.
        """
        self.record(identity)
        image_path, label_path = self.paths(identity)
        image, label = read_volume(image_path), read_volume(label_path)
        axis = self.schema.slice_axis
        return Pair(
            identity,
            np.ascontiguousarray(to_dhw(image.array, axis), dtype=np.float32),
            np.ascontiguousarray(to_dhw(label.array, axis), dtype=np.uint8),
            image.affine,
        )

    def write(self, pair: Pair, record: Mapping[str, Any] | None = None) -> Record:
        """Write a pair: files first, its manifest line last; only then it is finished.

        Args:
            pair: image and mask of one shape (D, H, W).
            record: more for its manifest line: `split` (default "training"), `person` (default the
                id), `source` or `seed`, parameters. No wall time: that goes to `log`.

        Returns:
            The manifest line, with the hashes of both files and the voxels per label.

        Raises:
            MedpairError: for a pair that does not fit the set.
        """
        check_pair(pair, self.schema, self.size)
        extra = dict(record or {})
        head = {"id": pair.id, "split": extra.pop("split", "training")}
        head["person"] = str(extra.pop("person", pair.id))
        if head["split"] not in SPLITS:
            raise MedpairError(
                f"pair {pair.id}: split '{head['split']}', wanted {' or '.join(SPLITS)}"
            )
        try:
            return self._write(pair, head, extra)
        except OSError:
            if pair.id not in self.manifest:
                for path in self.paths(pair.id):  # no half of a pair
                    path.unlink(missing_ok=True)
            raise

    def _write(self, pair: Pair, head: Record, extra: Record) -> Record:
        image_path, label_path = self.paths(pair.id)
        axis = self.schema.slice_axis
        write_volume(image_path, from_dhw(pair.image.astype(np.float32), axis), pair.affine)
        write_volume(label_path, from_dhw(pair.label.astype(np.uint8), axis), pair.affine)
        line = {
            **head,
            "image_sha256": sha256(image_path),
            "label_sha256": sha256(label_path),
            "shape": list(pair.label.shape),
            "voxels": voxel_counts(pair.label, self.schema),
            **extra,
        }
        line["provenance"] = provenance_of(self.header, line).to_dict()
        with brief(image_path.parent):  # other parts of a run may write here, too
            self.manifest.reload()
            self.manifest.put(line)
            self._write_datalist()
        return line

    def refresh(self) -> None:
        """Read the manifest again and bring the datalist in line with it."""
        images = self.dir / "images"
        images.mkdir(exist_ok=True)
        with brief(images):
            self.manifest.reload()
            self._write_datalist()

    def remove(self, identity: str) -> None:
        """Delete a pair: its manifest line first, its files last; what is gone already is no fault.

        Args:
            identity: the pair's id.
        """
        self.manifest.drop(identity)
        self._write_datalist()
        for path in self.paths(identity):
            path.unlink(missing_ok=True)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append seconds, memory and the like to `run.jsonl`, which equal runs do not share."""
        append_jsonl(self.dir / "run.jsonl", dict(record))

    def _write_datalist(self) -> None:
        lists: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
        for record in self.manifest:
            name = f"{record['id']}.nii.gz"
            files = {"image": f"images/{name}", "label": f"labels/{name}"}
            lists[record["split"]].append({**files, "id": record["id"], "person": record["person"]})
        write_json(
            self.dir / "dataset.json",
            {**self.header, "numTraining": len(lists["training"]), **lists},
        )


def voxel_counts(label: np.ndarray, schema: LabelSchema) -> dict[str, int]:
    """Voxels per label name, background left out; labels that are absent count 0."""
    counts = np.bincount(label.ravel(), minlength=schema.num_classes).tolist()
    return {name: int(counts[i]) for i, name in enumerate(schema.names) if i}


def _header(
    schema: LabelSchema,
    spacing: Spacing | None,
    size: Size | None,
    intensity: Mapping[str, Any],
    info: Mapping[str, Any],
) -> dict[str, Any]:
    header = {
        "format": FORMAT,
        "name": schema.name,
        "modality": {"0": schema.modality},
        "labels": {str(i): name for i, name in enumerate(schema.names)},
        "orientation": "RAS",
        "slice_axis": schema.slice_axis,
        "spacing": [float(v) for v in spacing] if spacing else None,
        "size": [int(v) for v in size] if size else None,
        "intensity": dict(intensity),
        **info,
        "schema": schema.to_dict(),
    }
    return dict(json.loads(json.dumps(header)))


def _visible(directory: Path) -> list[str]:
    return [
        p.name
        for p in directory.iterdir()
        if not p.name.startswith(".tmp-") and p.name != "run.jsonl"
    ]


def _same_settings(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key in sorted({*old, *new}, key=lambda k: (k == "schema", k != "name", k)):
        if old.get(key) != new.get(key):
            name, seen, wanted = _difference(key, old.get(key), new.get(key))
            raise MedpairError(
                f"{directory}: already a pair set with {name} {_brief(seen)}, wanted "
                f"{_brief(wanted)}; continue it with what it has, or choose another folder"
            )


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Return the innermost key that differs, such as generated.batch_volumes, and its values."""
    if key != "schema" and isinstance(old, Mapping) and isinstance(new, Mapping):
        inner = next(k for k in sorted({*old, *new}) if old.get(k) != new.get(k))
        return _difference(f"{key}.{inner}", old.get(inner), new.get(inner))
    return key, old, new


def _brief(value: Any) -> str:
    text = str(value.get("name", value) if isinstance(value, dict) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def load_arrays(dataset_dir: str | Path, split: str | None = "training") -> Arrays:
    """Load the pairs of a split into memory.

    Args:
        dataset_dir: a pair set's folder, its file (`common.data.compact`), or
            "phantom:<schema>[:<DxHxW>[:<n>]]" for phantoms that are made on the spot (default
            48x40x40 and 4).
        split: "training", "validation", or None for both.

    Returns:
        Ids, images float32 (D, H, W), masks uint8 (D, H, W), schema, spacing in mm.

    Raises:
        MedpairError: where there is no pair set or the split is empty.
    """
    if str(dataset_dir).startswith("phantom:"):
        from common.data.phantom import phantom_arrays

        return phantom_arrays(str(dataset_dir), split)
    if Path(dataset_dir).is_file():
        from common.data.compact import compact_arrays

        return compact_arrays(dataset_dir, split)
    pairset = PairSet.open(dataset_dir)
    ids = pairset.ids(split)
    if not ids:
        raise MedpairError(
            f"{dataset_dir}: no pair in split {split or 'any'}; run medpair prepare on it"
        )
    pairs = [pairset.read(identity) for identity in ids]
    images, labels = [p.image for p in pairs], [p.label for p in pairs]
    return Arrays(ids, images, labels, pairset.schema, pairset.spacing)
