"""What an installation without the source tree gets: all code once, and all of the bundles."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.environments import foreign_environment, run_apart

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from a copy of the sources, and the wheel from the sdist, as `build` does."""
    tree = tmp_path_factory.mktemp("wheel") / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "medpair.py"):
        shutil.copy(ROOT / name, tree)
    for name in ("common", "bundles"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    build("sdist", tree)
    with tarfile.open(next((tree / "dist").glob("medpair-*.tar.gz"))) as archive:
        archive.extractall(tree / "unpacked", filter="data")
    sources = next((tree / "unpacked").iterdir())
    build("wheel", sources)
    return next((sources / "dist").glob("medpair-*.whl"))


def build(kind: str, tree: Path) -> None:
    code = f"import setuptools.build_meta as b; b.build_{kind}('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> set[str]:
    """Return the names in the wheel."""
    return set(ZipFile(wheel_file).namelist())


def test_all_code_is_in_it_once(wheel: set[str]) -> None:
    packages = [ROOT / "common", *(path.parent for path in ROOT.glob("bundles/*/*/__init__.py"))]
    wanted = {
        str(path.relative_to(package.parent))
        for package in packages
        for path in package.rglob("*.py")
    }
    assert {name for name in wheel if name.endswith(".py")} == wanted | {"medpair.py"}


def test_bundles_stand_beside_common(wheel: set[str]) -> None:
    kinds = ("*.yaml", "*/configs/*", "*/presets/*", "*/docs/*", "*/models/*.pt", "*/LICENSE")
    files = [path for kind in kinds for path in (ROOT / "bundles").glob(kind) if path.is_file()]
    assert files
    assert {str(path.relative_to(ROOT)) for path in files} - wheel == set()
    assert "common/py.typed" in wheel
    assert "common/data/schemas/brain4.yaml" in wheel
    assert "segeval/templates/card.html.j2" in wheel
    parts = ("templates/report.html.j2", "vendor/niivue.umd.js", "vendor/LICENSE")
    assert {f"common/report/{name}" for name in parts} <= wheel


@pytest.fixture(scope="module")
def installed(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter in whose environment the wheel was unpacked, as pip does."""
    python = foreign_environment(tmp_path_factory.mktemp("environment"))
    site = next(Path(python).parents[1].glob("lib/python*/site-packages"))
    with ZipFile(wheel_file) as archive:
        archive.extractall(site)
    return python


def test_it_generates_outside_the_repository(installed: str, tmp_path: Path) -> None:
    words = ["-m", "medpair", "generate", "medgen3d", "--n", "1", "--out", "pairs"]
    done = run_apart(installed, words, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "pairs" / "images").glob("*.nii.gz"))) == 1


def test_monai_runs_the_bundle_that_info_names(installed: str, tmp_path: Path) -> None:
    told = run_apart(installed, ["-m", "medpair", "info", "mcdpm_mask", "--json"], tmp_path)
    folder = Path(json.loads(told.stdout)["folder"])
    assert folder.is_relative_to(Path(installed).parents[1])
    config = str(folder / "configs" / "inference.yaml")
    words = ["-m", "monai.bundle", "run", "--config_file", config, "--num_steps", "2"]
    done = run_apart(installed, [*words, "--output_dir", str(tmp_path / "out")], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out" / "labels").glob("*.nii.gz"))) == 1


def test_it_says_both_licences(installed: str, tmp_path: Path) -> None:
    told = run_apart(installed, ["-m", "medpair", "info", "mcdpm_mask"], tmp_path).stdout
    assert "code Apache-2.0, weights CC BY-NC 4.0" in told
