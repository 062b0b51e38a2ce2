"""The sizes that keep every file readable at one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
MEDIAN_FUNCTION, MOST_FUNCTIONS, LONGEST_FUNCTION = 12, 40, 80
MEDIAN_FILE, LONGEST_FILE = 150, 400


def sources() -> list[Path]:
    stages = [path for path in ROOT.glob("bundles/*/*/**/*.py") if "tests" not in path.parts]
    return sorted([*ROOT.glob("common/**/*.py"), *stages, ROOT / "medpair.py"])


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Yield the name of each function and its lines, from the signature to the end."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_a_function_counts_from_signature_to_end() -> None:
    source = 'import os\n\n\ndef f(\n    x: int,\n) -> int:\n    """Say."""\n    return x\n'
    assert list(functions(source)) == [("f", 5)]


def test_files_are_short() -> None:
    lines = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in sources()}
    too_long = {str(p.relative_to(ROOT)): n for p, n in lines.items() if n > LONGEST_FILE}
    assert not too_long
    assert (
        np.median([n for n in lines.values() if n > 3]) <= MEDIAN_FILE
    )  # not the empty __init__.py


def test_functions_are_short() -> None:
    found = [
        (lines, f"{path.relative_to(ROOT)}:{name}")
        for path in sources()
        for name, lines in functions(path.read_text(encoding="utf-8"))
    ]
    lengths = np.array([lines for lines, _ in found])
    assert np.median(lengths) <= MEDIAN_FUNCTION
    assert np.mean(lengths <= MOST_FUNCTIONS) >= 0.9
    assert max(found)[0] <= LONGEST_FUNCTION, max(found)
