"""What the documentation shows exists: commands, options, files, pages."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml

from common.cli import app, hoisted
from common.data.labels import load_schema, schema_names

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/*/docs/*.md")])
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```$|^((?: {4}.*\n|\n)+)", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(medpair [^`\n]+)`")
PATH = re.compile(r"`((?:bundles|common|docs|benchmarks|tests)/[\w./-]+)`")


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each `medpair` command, and whether it is shown as a whole."""
    blocks = "\n".join(m.group(1) or m.group(2) for m in BLOCK.finditer(text))
    lines = [line.strip() for line in blocks.replace("\\\n", " ").splitlines()]
    shown = [(line, True) for line in lines] + [(line, False) for line in SPAN.findall(text)]
    for line, whole in shown:
        if line.startswith("medpair "):
            words = shlex.split(line, comments=True)[1:]
            yield words, whole and not {"...", "…"} & set(words)


def test_commands_are_found() -> None:
    text = (
        "    medpair info  # why\n\n```\nmedpair pack all \\\n  --out z\n```\n"
        "and `medpair report p`"
    )
    block = [(["info"], True), (["pack", "all", "--out", "z"], True)]
    assert list(commands(text)) == [*block, (["report", "p"], False)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_parse(page: Path) -> None:
    group = typer.main.get_command(app)
    for words, whole in commands(page.read_text(encoding="utf-8")):
        name, *rest = [w for w in hoisted(words) if w != "--quiet"]
        if name == "COMMAND" or name.startswith("-"):
            continue
        command = group.commands[name]  # type: ignore[attr-defined]
        given = {w.partition("=")[0] for w in rest if w.startswith("--")}
        options = [p for p in command.params if p.param_type_name == "option"]
        known = {o for p in options for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert given <= known, words
        if whole and "--help" not in given:
            lacking = [p.opts for p in options if p.required and not given & set(p.opts)]
            assert not lacking, words


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_exist(page: Path) -> None:
    named = {path.rstrip("/.") for path in PATH.findall(page.read_text(encoding="utf-8"))}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_work_in_the_repository_too(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^()\s]+)\)", text)}
    local = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in sorted(local) if not (page.parent / target).exists()] == []


def nav_pages(entry: object) -> Iterator[str]:
    """Yield the pages of an entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    for inner in (
        entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    ):
        yield from nav_pages(inner)


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(nav_pages(config["nav"]))
    written = {str(p.relative_to(ROOT / "docs")) for p in ROOT.glob("docs/**/*.md")}
    assert written <= listed
    made = {"changelog.md", "contributing.md", "notebook.md"}
    made |= {f"reference/{name}.md" for name in ("cli", "schemas", "presets")}
    assert listed - written == made


@pytest.fixture(scope="module")
def hooks() -> Iterator[dict[str, ModuleType]]:
    """Import the modules of the site that need no mkdocs."""
    names = ("api_pages", "command_pages", "data_pages", "habits", "links", "notebook", "offline")
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(ROOT / "docs" / "hooks"))
        for name in (*names, "paths"):
            if name not in before:
                sys.modules.pop(name, None)


def test_links_point_into_the_site(hooks: dict[str, ModuleType]) -> None:
    table = {"CHANGELOG.md": "changelog.md", "docs/a/b.md": "a/b.md", "bundles/x/p.png": "x/p.png"}
    text = (
        "[all](../CHANGELOG.md#one) ![p](../bundles/x/p.png) [code](../common/x.py) [no](gone.md)\n"
        "[out](https://example.org) [here](#top)\n```\n[all](../CHANGELOG.md)\n```\n"
    )
    made = hooks["links"].rewrite(text, "docs/a.md", "how/a.md", table, lambda p: "common" in p)
    assert made == (
        "[all](../changelog.md#one) ![p](../x/p.png) code (`common/x.py`) [no](gone.md)\n"
        "[out](https://example.org) [here](#top)\n```\n[all](../CHANGELOG.md)\n```\n"
    )


def test_docstrings_become_readable(hooks: dict[str, ModuleType]) -> None:
    text = (
        "Do it.\n\nArgs:\n    a, b: two\n        words.\n    c: one.\n\n"
        "Source: Someone,\n    eq. 2.\n"
    )
    assert hooks["habits"].readable(text) == (
        "Do it.\n\nArgs:\n    a: two\n        words.\n    b: two\n        words.\n    c: one.\n\n"
        "**Source:** Someone, eq. 2.\n"
    )


def test_nothing_is_loaded_from_a_network(hooks: dict[str, ModuleType]) -> None:
    check = hooks["offline"].without_network
    shim = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
    local = '<script src="../assets/javascripts/worker_from_disk.js"></script>'
    link = '<a href="https://monai.io">MONAI</a><link rel="next" href="b.html">'
    assert check(shim + link, "how-to/a.html") == local + link
    for bad in ('<img src="https://x.y/z.png">', '<link href="https://x.y" rel="stylesheet">'):
        with pytest.raises(ValueError, match=r"a\.html: loads"):
            check(bad, "a.html")


def test_pages_from_the_code(hooks: dict[str, ModuleType]) -> None:
    group = typer.main.get_command(app)
    page = hooks["command_pages"].markdown()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert f"### {name}\n" in page
        options = [p for p in command.params if p.param_type_name == "option"]
        assert all(f"`{name}`" in page for p in options for name in p.opts)
    schemas = hooks["data_pages"].schemas_markdown()
    assert all(
        f"`{label.name}`" in schemas for n in schema_names() for label in load_schema(n).labels
    )
    assert "[brain4](schemas.md#brain4)" in hooks["data_pages"].presets_markdown()
    modules = hooks["api_pages"].flat(hooks["api_pages"].tree())
    names = [module.name for module in modules]
    assert {
        "medpair",
        "common.diffusion.overlap",
        "mcdpm.sampler",
        "segeval.baselines.wgan",
    } <= set(names)
    assert "common.cli" not in names
    assert "Plan the windows" not in hooks["api_pages"].markdown(modules[0])


def test_the_notebook_is_a_page(hooks: dict[str, ModuleType]) -> None:
    content = (ROOT / "docs" / "getting-started.ipynb").read_text(encoding="utf-8")
    page = hooks["notebook"].to_markdown(content)
    assert page.startswith("# Getting started")
    assert '```python\nfolder = medpair.generate("medgen3d"' in page


def test_pictures_of_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "explanation"))
    plans = importlib.import_module("pictures_plans")
    for figure in (
        plans.directions(48, 24),
        plans.known_noise(),
        plans.strategies(),
        plans.pipelines(),
    ):
        assert figure.axes
    drawn = {p.stem for p in (ROOT / "docs" / "explanation" / "images").glob("*.png")}
    shown = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/explanation").glob("*.md"))
    assert drawn == set(re.findall(r"images/(\w+)\.png", shown))
