"""What every bundle and pipeline config may contain: `_target_` calls code and `$` is evaluated."""

from __future__ import annotations

import ast
import pydoc
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIGS = sorted([*ROOT.glob("bundles/*.yaml"), *ROOT.glob("bundles/*/*/*.yaml")])
STAGES = {path.parent.name for path in ROOT.glob("bundles/*/*/__init__.py")}
PACKAGES = {"monai", "torch", "ignite", "mlflow", "common"} | STAGES
FORBIDDEN = {"open", "eval", "exec", "compile", "getattr", "setattr", "globals", "locals", "vars"}
MOST_EXPRESSIONS = 12
KINDS = ("train", "inference", "evaluate", "multi_gpu_train")
REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which the last would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise ValueError(f"line {node.start_mark.line + 1}: key {twice[0]!r} given twice")
        return super().construct_mapping(node, deep)


def values(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield each scalar below `content` with the key that it stands under."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from values(value)
        else:
            yield str(key), value


def expression_faults(text: str) -> Iterator[str]:
    """Yield what an expression, without its `$`, must not do."""
    tree = ast.parse(REFERENCE.sub("_reference_", text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield f"import in ${text}"
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        if name in FORBIDDEN or str(name).startswith("__"):
            yield f"{name} in ${text}"


def faults(source: str) -> list[str]:
    """Return what is wrong with the text of a config."""
    content = yaml.load(source, Loader=UniqueKeys)
    found = []
    expressions = 0
    for key, value in values(content):
        if key == "_target_" and str(value).split(".")[0] not in PACKAGES:
            found.append(f"_target_ {value}")
        if not isinstance(value, str):
            continue
        if value.startswith("%"):
            found.append(f"macro {value}")
        if "_meta_" in value:
            found.append(f"_meta_ in {value}")
        if value.startswith("$"):
            expressions += 1
            found += expression_faults(value[1:])
    if expressions > MOST_EXPRESSIONS:
        found.append(f"{expressions} expressions")
    return found


def unresolved(content: dict[str, Any]) -> list[str]:
    """Return the references in a complete config that lead nowhere."""
    missing = []
    for _, value in values(content):
        for reference in REFERENCE.findall(value) if isinstance(value, str) else ():
            place: Any = content
            for step in re.split("#|::", reference):
                key = int(step) if isinstance(place, list) else step
                try:
                    place = place[key]
                except (KeyError, IndexError, TypeError):
                    missing.append(reference)
                    break
    return missing


def is_complete(path: Path) -> bool:
    """Overlays change a config and do not stand alone."""
    return path.parent.name in ("bundles", "configs") and not path.stem.startswith("multi_gpu")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_stage_brings_its_configs() -> None:
    assert STAGES
    rooms = {path.parents[1] for path in ROOT.glob("bundles/*/*/__init__.py")}
    wanted = {room / "configs" / f"{kind}.yaml" for room in rooms for kind in KINDS}
    assert wanted - set(CONFIGS) == set()


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_config_keeps_the_rules(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_targets_exist(path: Path) -> None:
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    targets = {str(value) for key, value in values(content) if key == "_target_"}
    assert [target for target in sorted(targets) if pydoc.locate(target) is None] == []


@pytest.mark.parametrize("path", [p for p in CONFIGS if is_complete(p)], ids=name_of)
def test_references_lead_somewhere(path: Path) -> None:
    assert unresolved(yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)) == []


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.name == "train.yaml"], ids=name_of)
def test_train_handlers_are_a_list_that_tracking_can_extend(path: Path) -> None:
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    assert isinstance(content["train"]["handlers"], list)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("a: {_target_: os.system, command: ls}", "_target_ os.system"),
        ("a: {_target_: subprocess.run}", "_target_ subprocess.run"),
        ("a: $import os", "import in $import os"),
        ("a: $__import__('os').getcwd()", "__import__ in $__import__('os').getcwd()"),
        ("a: $open('x').read()", "open in $open('x').read()"),
        ("a: $().__class__", "__class__ in $().__class__"),
        ("a: $@b.__dict__", "__dict__ in $@b.__dict__"),
        ("a: '%train.yaml::lr'", "macro %train.yaml::lr"),
        ("a: '@_meta_#version'", "_meta_ in @_meta_#version"),
        ("a: [" + "$1, " * 13 + "]", "13 expressions"),
    ],
)
def test_the_rules_find_what_they_forbid(source: str, fault: str) -> None:
    assert fault in faults(source)


def test_a_key_given_twice_is_found() -> None:
    with pytest.raises(ValueError, match="line 1: key 'a' given twice"):
        faults("a: 1\na: 2")


def test_a_reference_that_leads_nowhere_is_found() -> None:
    assert unresolved({"a": "@b#0", "b": ["$@c + @a", "@b::2"]}) == ["c", "b::2"]
