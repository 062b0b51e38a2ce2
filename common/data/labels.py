"""Label schemas: what the numbers in a mask mean, and how other people's numbers map to them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.data.codes import Code
from common.errors import MedpairError

IDENTITY = "schema"
_SUPPORTS = ("nonzero", "ct_body", "labels")


@dataclass(frozen=True)
class Label:
    """One label: its name, id (1..K), colour, and the anatomical rules that it obeys.

    `pair` names the label on the other side of the body, `inside` the label that surrounds it,
    `components` how many connected parts it has at most (None: any number),
    `required` whether every mask must show it, `aliases` what others call it, `code` its name in
    SNOMED CT.
    """

    name: str
    id: int
    colour: tuple[int, int, int]
    pair: str | None = None
    inside: str | None = None
    components: int | None = None
    fill_holes: bool = False
    required: bool = True
    aliases: tuple[str, ...] = ()
    code: Code | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        plain = asdict(self) | {"colour": list(self.colour)}
        del plain["aliases"], plain["code"]
        if self.aliases:
            plain["aliases"] = list(self.aliases)
        if self.code:
            plain["code"] = self.code.to_dict()
        return plain


@dataclass(frozen=True)
class Container:
    """The label that every voxel of the support gets when no other label claims it.

    `support`: "nonzero" image, "ct_body" (threshold), or "labels" (filled union of all mapped ids),
    which is also the rule for label maps of the `sources` listed.
    """

    name: str
    support: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSchema:
    """The meaning of a mask: labels 1..K, background 0, sources of other ids, region groups.

    `intensity_order` names labels by rising median intensity, as every image of the kind shows
    them.
    """

    name: str
    modality: str
    slice_axis: str
    labels: tuple[Label, ...]
    container: Container | None = None
    sources: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    intensity: Mapping[str, Any] = field(default_factory=dict)
    intensity_order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included (K + 1)."""
        return len(self.labels) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names by id, "background" first."""
        return ("background", *(label.name for label in self.labels))

    @property
    def container_id(self) -> int | None:
        """The container's label id, None where the schema has no container."""
        return self.id_of(self.container.name) if self.container else None

    def id_of(self, name: str) -> int:
        """The id of a label by name.

        Raises:
            MedpairError: for an unknown name.
        """
        if name not in self.names:
            raise MedpairError(
                f"schema {self.name}: no label '{name}'; choose one of {', '.join(self.names)}"
            )
        return self.names.index(name)

    @cached_property
    def names_and_aliases(self) -> dict[str, int]:
        """Label ids by name and by alias."""
        return {name: x.id for x in self.labels for name in (x.name, *x.aliases)}

    @cached_property
    def palette(self) -> np.ndarray:
        """Colours, uint8 (num_classes, 3); background black."""
        return np.array([(0, 0, 0), *(label.colour for label in self.labels)], dtype=np.uint8)

    @cached_property
    def flip_lut(self) -> np.ndarray:
        """The id that each id becomes when left and right are exchanged, uint8 (num_classes,)."""
        ids = [0, *(self.id_of(label.pair or label.name) for label in self.labels)]
        return np.array(ids, dtype=np.uint8)

    def readings(self, values: Mapping[int, int] | set[int]) -> dict[str, tuple[int, ...]]:
        """The sources that explain all given ids, each with the schema ids it gives them.

        Args:
            values: ids found in label files.

        Returns:
            {source name: schema ids in the order of sorted(values)}; the schema's own ids count
            as the source "schema".
        """
        tables = {IDENTITY: self.source_map(IDENTITY), **self.sources}
        found = sorted(set(values) | {0})
        return {
            name: tuple(table.get(value, 0) for value in found)
            for name, table in tables.items()
            if all(value == 0 or value in table for value in found)
        }

    def source_map(self, source: str | None) -> Mapping[int, int]:
        """The table {source id: schema id} of a source; None or "schema" is the schema itself.

        Raises:
            MedpairError: for an unknown source.
        """
        if source is None or source == IDENTITY:
            return {i: i for i in range(self.num_classes)}
        if source not in self.sources:
            known = ", ".join([IDENTITY, *self.sources])
            raise MedpairError(f"schema {self.name}: no source '{source}'; choose one of {known}")
        return self.sources[source]

    def remap(self, array: np.ndarray, source: str | None = None) -> np.ndarray:
        """Translate a source's ids to schema ids.

        Args:
            array: integer ids, any shape; 0 is background.
            source: a name under `sources`; None for the schema's own ids.

        Returns:
            uint8 array of the same shape, values 0..K.

        Raises:
            MedpairError: for ids that the source does not know, or an unknown source.
        """
        table = self.source_map(source)
        values = unique_ids(array)
        unknown = [v for v in values if v != 0 and v not in table]
        if unknown:
            raise MedpairError(self._unknown_ids(unknown, source, set(values)))
        lut = np.zeros(max(values, default=0) + 1, dtype=np.uint8)
        lut[values] = [table.get(v, 0) for v in values]
        return np.asarray(lut[array])

    def _unknown_ids(self, unknown: list[int], source: str | None, values: set[int]) -> str:
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        fits = [name for name in self.readings(values) if name != source]
        others = [name for name in (IDENTITY, *self.sources) if name != (source or IDENTITY)]
        repair = (
            f"use source {' or '.join(fits)}" if fits else "add the ids to the schema's sources"
        )
        wanted = f"0..{self.num_classes - 1}" if source in (None, IDENTITY) else f"ids of {source}"
        return (
            f"label ids {shown} are outside schema {self.name} (wanted {wanted}); {repair}"
            f" (other sources: {', '.join(others) or 'none'})"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it back to an equal schema."""
        plain = asdict(self) | {
            "sources": {},
            "groups": {k: list(v) for k, v in self.groups.items()},
        }
        for source, table in self.sources.items():
            by_name: dict[str, list[int]] = {}
            for value, target in sorted(table.items()):
                by_name.setdefault(self.names[target], []).append(value)
            plain["sources"][source] = by_name
        plain["labels"] = [label.to_dict() for label in self.labels]
        if self.container:
            plain["container"] = asdict(self.container) | {"sources": list(self.container.sources)}
        return plain

    @staticmethod
    def from_dict(data: Mapping[str, Any], origin: str = "schema") -> "LabelSchema":
        """Build a schema from its YAML or JSON form.

        Args:
            data: keys name, modality, slice_axis, labels and optionally container, sources
                ({source: {label name: [ids or "first-last"]}}), groups, intensity.
            origin: file or key named in errors.

        Returns:
            The checked schema.

        Raises:
            MedpairError: for missing or contradictory keys.
        """
        try:
            return _build(data)
        except MedpairError as error:
            raise MedpairError(f"{origin}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MedpairError(
                f"{origin}: not a label schema ({type(error).__name__}: {error}); "
                "compare it with common/data/schemas/brain4.yaml"
            ) from error


def unique_ids(array: np.ndarray) -> list[int]:
    """The different integers in an array, sorted (by counting, much faster than by sorting)."""
    if array.size == 0 or int(array.min()) < 0 or int(array.max()) >= 2**20:
        return [int(value) for value in np.unique(array)]
    return [int(value) for value in np.flatnonzero(np.bincount(array.ravel()))]


def _build(data: Mapping[str, Any]) -> LabelSchema:
    entries = sorted(data["labels"], key=lambda entry: int(entry["id"]))
    labels = tuple(_label(entry) for entry in entries)
    ids = {"background": 0} | {label.name: label.id for label in labels}
    box = data.get("container")
    return LabelSchema(
        name=data["name"],
        modality=data["modality"],
        slice_axis=data["slice_axis"],
        labels=labels,
        container=Container(box["name"], box["support"], tuple(box.get("sources", ())))
        if box
        else None,
        sources={name: _table(entry, ids) for name, entry in (data.get("sources") or {}).items()},
        groups={name: _members(entry, ids) for name, entry in (data.get("groups") or {}).items()},
        intensity=dict(
            data.get("intensity") or {"method": "percentile", "lower": 0.5, "upper": 99.5}
        ),
        intensity_order=tuple(data.get("intensity_order") or ()),
    )


def _label(entry: Mapping[str, Any]) -> Label:
    read: dict[str, Any] = {**entry, "colour": tuple(entry["colour"])}
    read["aliases"] = tuple(str(alias) for alias in entry.get("aliases") or ())
    code = entry.get("code")
    read["code"] = None if code is None else Code(**{**code, "value": str(code["value"])})
    return Label(**read)


def _members(entry: list[str | int], ids: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(ids[item] if isinstance(item, str) else int(item) for item in entry)


def _table(entry: Mapping[str, list[int | str]], ids: Mapping[str, int]) -> dict[int, int]:
    table: dict[int, int] = {}
    for name, items in entry.items():
        for value in (value for item in items for value in _expand(item)):
            if value in table:
                raise MedpairError(f"source id {value} is mapped twice; keep one of them")
            table[value] = ids[name]
    return dict(sorted(table.items()))


def _expand(item: int | str) -> range:
    first, _, last = str(item).partition("-")
    return range(int(first), int(last or first) + 1)


def _check(schema: LabelSchema) -> None:
    ids = [label.id for label in schema.labels]
    names = {label.name for label in schema.labels}
    if ids != list(range(1, len(ids) + 1)) or len(ids) > 255:
        raise MedpairError(f"label ids {ids}, wanted 1..{len(ids)} without gaps (at most 255)")
    if len(names) != len(ids) or "background" in names:
        raise MedpairError("label names repeat or use 'background'; give each label its own name")
    if schema.modality not in ("MR", "CT") or schema.slice_axis not in ("AP", "SI"):
        raise MedpairError(
            f"modality {schema.modality}, slice_axis {schema.slice_axis}; "
            "wanted MR or CT and AP or SI"
        )
    _check_references(schema, names)


def _check_references(schema: LabelSchema, names: set[str]) -> None:
    pairs = {label.name: label.pair for label in schema.labels if label.pair}
    for name, other in pairs.items():
        if pairs.get(other) != name:
            raise MedpairError(f"label {name}: pair '{other}' does not name {name} as its pair")
    for label in schema.labels:
        if label.inside is not None and label.inside not in names:
            raise MedpairError(f"label {label.name}: inside '{label.inside}' is not a label")
    for name in schema.intensity_order:
        schema.id_of(name)
    for group, ids in schema.groups.items():
        if group in names or not ids or not set(ids) <= set(range(1, schema.num_classes)):
            raise MedpairError(
                f"group {group}: labels {list(ids)}, wanted ids 1..{schema.num_classes - 1} and a "
                "name that no label has"
            )
    box = schema.container
    if box and (box.name not in names or box.support not in _SUPPORTS):
        raise MedpairError(
            f"container {box.name} with support {box.support}; wanted a label's name and one of "
            f"{', '.join(_SUPPORTS)}"
        )


def _schema_folder() -> Traversable:
    return files(__package__) / "schemas"


def schema_names() -> tuple[str, ...]:
    """Names of the schemas that ship with the package, sorted."""
    return tuple(
        sorted(f.name[:-5] for f in _schema_folder().iterdir() if f.name.endswith(".yaml"))
    )


def load_schema(name_or_path: str | Path) -> LabelSchema:
    """Read a shipped schema by name, or anyone's schema by path.

    Args:
        name_or_path: for example "brain4", or a `.yaml`/`.yml`/`.json` file.

    Returns:
        The checked schema.

    Raises:
        MedpairError: for an unknown name, a missing file or a wrong schema.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml", ".json")):
        if not Path(text).is_file():
            raise MedpairError(f"{text}: no such schema file; correct the path")
        return _parse(Path(text).read_text(encoding="utf-8"), text)
    if text not in schema_names():
        raise MedpairError(
            f"schema '{text}' is unknown; choose {', '.join(schema_names())} or give a .yaml file"
        )
    return _shipped(text)


@cache
def _shipped(name: str) -> LabelSchema:
    return _parse((_schema_folder() / f"{name}.yaml").read_text(encoding="utf-8"), name)


def _parse(content: str, origin: str) -> LabelSchema:
    try:
        data = yaml.safe_load(content)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise MedpairError(f"{origin}: not YAML ({reason}); correct it") from error
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise MedpairError(f"{origin}: holds a {kind}, wanted the keys of a label schema")
    return LabelSchema.from_dict(data, origin=origin)
