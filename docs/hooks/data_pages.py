"""Label schemas and presets, as the program reads them."""

from __future__ import annotations

from typing import Any

import yaml
from paths import ROOT

from common.data.labels import LabelSchema, load_schema, schema_names

_SCHEMAS = """# Label schemas

What the numbers in a mask mean. A schema is one YAML file; these ship, and `--schema` takes the
path of [your own](../how-to/own-labels.md). Background is 0 in all. `SNOMED` is the code of a
label in DICOM SEG; a structure of an RTSTRUCT is known by a label's name or one of its aliases.
The last table of a schema says whose ids `medpair prepare` can read: it finds out by itself which
fit, and asks for `--source NAME` where two do.

"""
_PRESETS = """# Presets

`--preset` of `medpair generate` and `medpair train`. Sizes and spacings are D x H x W. Memory is
the peak of the process at a stage on a CPU, measured by `benchmarks/memory.py`; empty: not
measured. `medpair info` says for which presets weights ship.

"""


def sources() -> dict[str, str]:
    """Return {file in the repository: where the site shows it}, for links to YAML files."""
    page, folder = "reference/schemas.md", "common/data/schemas"
    table = {folder: page} | {f"{folder}/{name}.yaml": f"{page}#{name}" for name in schema_names()}
    pipelines = {path.name for path in ROOT.glob("bundles/*.yaml")}
    return table | {f"bundles/{name}": "reference/presets.md" for name in pipelines}


def schemas_markdown() -> str:
    """Return the page of the label schemas."""
    return _SCHEMAS + "\n".join(_schema(load_schema(name)) for name in schema_names())


def _schema(schema: LabelSchema) -> str:
    intensity = ", ".join(f"{key} {value}" for key, value in schema.intensity.items())
    axis = {"AP": "back to front (coronal slices)", "SI": "foot to head (axial slices)"}
    facts = [f"{schema.modality}; slices run {axis[schema.slice_axis]}; intensity: {intensity}."]
    if schema.container:
        facts.append(
            f"Voxels of the support `{schema.container.support}` that no label claims become "
            f"`{schema.container.name}`."
        )
    for group, ids in schema.groups.items():
        facts.append(f"Group {group}: {', '.join(schema.names[i] for i in ids)}.")
    return (
        f"## {schema.name}\n\n{' '.join(facts)}\n\n"
        "| id | label | colour | SNOMED | aliases | rules |\n|---|---|---|---|---|---|\n"
        + "\n".join(_label(label) for label in schema.labels)
        + "\n\n"
        + _sources(schema)
    )


def _label(label: Any) -> str:
    colour = "#{:02x}{:02x}{:02x}".format(*label.colour)
    swatch = f'<span class="swatch" style="background:{colour}"></span> `{colour}`'
    code = f"{label.code.value} {label.code.meaning}" if label.code else ""
    return (
        f"| {label.id} | `{label.name}` | {swatch} | {code} | {', '.join(label.aliases)} "
        f"| {', '.join(_rules(label))} |"
    )


def _rules(label: Any) -> list[str]:
    rules = [f"inside `{label.inside}`"] if label.inside else []
    rules += [f"pair of `{label.pair}`"] if label.pair else []
    if label.components:
        rules.append("one part" if label.components == 1 else f"at most {label.components} parts")
    rules += ["no holes"] if label.fill_holes else []
    return rules + ([] if label.required else ["may be missing"])


def _sources(schema: LabelSchema) -> str:
    if not schema.sources:
        return ""
    rows = ["| ids of | " + " | ".join(f"`{n}`" for n in schema.names[1:]) + " |"]
    rows.append("|" + "---|" * schema.num_classes)
    for name, table in schema.sources.items():
        cells = [_ranges([k for k, v in table.items() if v == i]) for i in _ids(schema)]
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _ids(schema: LabelSchema) -> range:
    return range(1, schema.num_classes)


def _ranges(values: list[int]) -> str:
    spans: list[list[int]] = []
    for value in values:
        if spans and spans[-1][1] == value - 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def presets_markdown() -> str:
    """Return the page of the presets of the pipelines."""
    parts = [_PRESETS]
    for path in sorted(ROOT.glob("bundles/*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        parts.append(_pipeline(config))
    return "".join(parts)


def _pipeline(config: dict[str, Any]) -> str:
    stages = [stage["name"] for stage in config["stages"]]
    made_by = ", ".join(f"`{s['name']}` ({s['bundle']})" for s in config["stages"])
    head = "| preset | schema | size | spacing in mm | pairs in a batch |"
    rows = [head + "".join(f" {stage}, GiB |" for stage in stages)]
    rows.append("|" + "---|" * (5 + len(stages)))
    for name, preset in config["presets"].items():
        size, spacing = (" x ".join(f"{v:g}" for v in preset[key]) for key in ("size", "spacing"))
        memory = preset.get("memory_gib", {})
        cells = "".join(f" {memory.get(stage, '')} |" for stage in stages)
        schema = preset["schema"]
        rows.append(
            f"| `{name}` | [{schema}](schemas.md#{schema}) | {size} | {spacing} "
            f"| {preset['batch_volumes']} |{cells}"
        )
    return (
        f"## {config['name']}\n\nStages: {made_by}. Default: `{config['preset']}`.\n\n"
        + "\n".join(rows)
        + "\n\n"
    )
