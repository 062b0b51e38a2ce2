"""The public Python face, and what it says when another `common` is in its place."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import medpair

ROOT = Path(__file__).parents[1]


def run_python(code: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that searches `path` first."""
    program = f"import sys; sys.path[:0] = [{str(path)!r}, {str(ROOT)!r}]; {code}"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_import_is_light(tmp_path: Path) -> None:
    code = "import medpair; print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules])"
    done = run_python(code, ROOT, tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("kind", ["package", "namespace", "module"])
def test_a_strangers_common_is_named(tmp_path: Path, kind: str) -> None:
    if kind == "module":
        (tmp_path / "common.py").touch()
    else:
        (tmp_path / "common").mkdir()
    if kind == "package":
        (tmp_path / "common" / "__init__.py").touch()
    done = run_python("import medpair", tmp_path, tmp_path)
    if kind == "namespace":  # a bare folder never hides a package
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: medpair: the package 'common' is found at")
    assert str(ROOT / "common") in last
    assert "pip uninstall common" in last


NAMES = ("train", "generate", "evaluate")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Replace the pipeline by one that records its calls."""
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    stub = ModuleType("common.pipeline")
    for name in NAMES:

        def record(*args: Any, _name: str = name, **kwargs: Any) -> Any:
            seen.append((_name, args, kwargs))
            return kwargs["out"]

        setattr(stub, name, record)
    for module in ("common.pipeline", "common.evaluation"):
        monkeypatch.setitem(sys.modules, module, stub)
    return seen


def test_generate_hands_everything_on(calls: list[Any]) -> None:
    folder = medpair.generate(num=2, seed=3, out="o", depth=48, weights="w", stages=["mask"])
    (name, args, kwargs) = calls[0]
    assert folder == Path("o")
    assert (name, args) == ("generate", ("medgen3d",))
    wanted = {"num": 2, "seed": 3, "out": Path("o"), "depth": 48, "weights": Path("w")}
    assert wanted.items() <= kwargs.items()
    assert (kwargs["stages"], kwargs["preset"], kwargs["data"]) == (["mask"], None, None)


def test_train_and_evaluate_return_their_folder(calls: list[Any]) -> None:
    assert medpair.train(data="d", out="o", max_iterations=2) == Path("o")
    assert medpair.evaluate("mcdpm_mask", data="d", synthetic="s", out="r") == Path("r")
    assert [call[0] for call in calls] == ["train", "evaluate"]
    assert calls[0][2]["max_iterations"] == 2
    assert calls[1][2]["synthetic"] == Path("s")


def test_prepare_has_the_parameters_of_the_function_behind() -> None:
    from common.data.prepare import prepare

    ours, theirs = (inspect.signature(f).parameters for f in (medpair.prepare, prepare))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


def test_pipeline_functions_have_the_parameters_of_those_behind() -> None:
    from common import evaluation, pipeline

    for name in NAMES:
        behind = evaluation if name == "evaluate" else pipeline
        ours = inspect.signature(getattr(medpair, name)).parameters
        theirs = inspect.signature(getattr(behind, name)).parameters
        assert list(ours) == list(theirs)
