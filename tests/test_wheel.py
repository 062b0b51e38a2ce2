"""What an installation without the source tree gets: all code once, and all of the bundles."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel from a copy of the sources and return the names in it."""
    tree = tmp_path_factory.mktemp("wheel") / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "medpair.py"):
        shutil.copy(ROOT / name, tree)
    for name in ("common", "bundles"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import setuptools.build_meta as b; b.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    return set(ZipFile(next((tree / "dist").glob("medpair-*.whl"))).namelist())


def test_all_code_is_in_it_once(wheel: set[str]) -> None:
    packages = [ROOT / "common", *(path.parent for path in ROOT.glob("bundles/*/*/__init__.py"))]
    wanted = {
        str(path.relative_to(package.parent))
        for package in packages
        for path in package.rglob("*.py")
    }
    assert {name for name in wheel if name.endswith(".py")} == wanted | {"medpair.py"}


def test_bundles_stand_beside_common(wheel: set[str]) -> None:
    kinds = ("*.yaml", "*/configs/**/*.*", "*/docs/*", "*/models/*.pt", "*/LICENSE")
    files = [path for kind in kinds for path in (ROOT / "bundles").glob(kind) if path.is_file()]
    assert files
    assert {str(path.relative_to(ROOT)) for path in files} - wheel == set()
    assert "common/py.typed" in wheel
    assert "common/data/schemas/brain4.yaml" in wheel
    assert "segeval/templates/card.html.j2" in wheel
