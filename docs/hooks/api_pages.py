"""A page for each package and module, which mkdocstrings fills from the docstrings."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paths import ROOT

STAGES = ("mcdpm", "vid2vid", "sdm", "gem3d", "segeval")
FOLDER = "reference/api"


@dataclass(frozen=True)
class Module:
    """A module or package: its dotted name, file, first line of its docstring, what it holds."""

    name: str
    file: Path
    summary: str
    children: tuple[Module, ...] = ()

    @property
    def page(self) -> str:
        """The page in the site."""
        path = self.name.replace(".", "/")
        return f"{FOLDER}/{path}/index.md" if self.children else f"{FOLDER}/{path}.md"


def source_folders() -> list[Path]:
    """Return the folders that importable packages stand in."""
    return [ROOT, *sorted(path.parents[1] for s in STAGES for path in _init_files(s))]


def _init_files(stage: str) -> list[Path]:
    return sorted(ROOT.glob(f"bundles/*/{stage}/__init__.py"))


def tree() -> list[Module]:
    """Return what is documented: `medpair`, `common` without its command line, the stages."""
    stages = [_module(path.parent, stage) for stage in STAGES for path in _init_files(stage)]
    return [_module(ROOT / "medpair.py", "medpair"), _module(ROOT / "common", "common"), *stages]


def _module(path: Path, name: str) -> Module:
    if path.is_file():
        return Module(name, path, _summary(path))
    inner = [p for p in sorted(path.iterdir()) if _is_public(p)]
    children = tuple(_module(p, f"{name}.{p.stem}") for p in inner)
    return Module(name, path / "__init__.py", _summary(path / "__init__.py"), children)


def _is_public(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").is_file()
    # the command line is a page of its own
    return path.suffix == ".py" and not path.stem.startswith(("_", "cli"))


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def markdown(module: Module) -> str:
    """Return the page of a module; a package lists its modules."""
    head = f"# {module.name}\n\n"
    if not module.children:
        return f"{head}::: {module.name}\n"
    here = module.page.removesuffix("index.md")
    rows = [
        f"| [`{child.name}`]({child.page.removeprefix(here)}) | {child.summary} |"
        for child in module.children
    ]
    about = f"{module.summary}\n\n" if module.summary else ""
    return f"{head}{about}| module | what it is |\n|---|---|\n" + "\n".join(rows) + "\n"


def flat(modules: list[Module] | tuple[Module, ...]) -> list[Module]:
    """Return modules and all that they hold."""
    return [one for module in modules for one in (module, *flat(module.children))]


@cache
def sources() -> dict[str, str]:
    """Return {file in the repository: its page}, for links to files of Python."""
    return {one.file.relative_to(ROOT).as_posix(): one.page for one in flat(tree())}


def nav(module: Module) -> dict[str, object]:
    """Return a module's entry in the navigation."""
    short = module.name.rpartition(".")[2]
    if not module.children:
        return {short: module.page}
    return {short: [module.page, *(nav(child) for child in module.children)]}
