"""What makes docs/results.md: steps, the choice between states, the page."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.errors import MedpairError
from common.io.atomic import write_json

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_a_step_runs_once_and_again_where_its_words_change(module: Any, tmp_path: Path) -> None:
    step, made = module("steps").Steps(tmp_path / "steps"), tmp_path / "made"
    append = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    for word in ("a", "a", "b"):
        step("append", ["-c", append, str(made), word])
    assert made.read_text() == "ab"
    assert set(step.seconds()) == {"append"}


def test_a_failing_step_is_named_with_its_last_words_and_run_again(
    module: Any, tmp_path: Path
) -> None:
    step = module("steps").Steps(tmp_path / "steps")
    for _ in range(2):
        with pytest.raises(MedpairError, match=r"^bad: exit code 3; .*bad.log ends with: oh no$"):
            step("bad", ["-c", "print('oh no'); raise SystemExit(3)"])
    assert step.seconds() == {}


def test_options_become_words(module: Any) -> None:
    made = module("steps").medpair("judge", real=Path("a"), weights=None, fast=True, set=["x", "y"])
    assert made == ["-m", "medpair", "judge", "--real", "a", "--fast", "--set", "x", "--set", "y"]


def test_a_key_that_a_config_lacks_is_refused(module: Any) -> None:
    words = module("steps").monai("segmentation_eval", "train", "small", minutes=3)
    assert words[-2:] == ["--minutes", "3"]
    assert json.loads(words[4])[1].endswith("presets/small.yaml")
    with pytest.raises(MedpairError, match=r"ranges\.yaml: no key minutes; correct the step"):
        module("steps").monai("segmentation_eval", "ranges", minutes=3)


@pytest.mark.parametrize(
    ("copies", "distance", "wanted"),
    [
        ({"half": 1, "end": 2}, {"half": 0.3, "end": 0.2}, "end"),
        ({"half": 1, "end": 0}, {"half": 0.1, "end": 0.2}, "half"),
        ({"half": 0, "end": 9}, {"half": 0.3, "end": 0.2}, "half"),  # it copies
        ({"half": 8, "end": 9}, {"half": 0.3, "end": 0.2}, "end"),  # both do
    ],
)
def test_kept_back_scans_choose_among_states_that_do_not_copy(
    copies: dict[str, int],
    distance: dict[str, float],
    wanted: str,
    module: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = module("results")
    monkeypatch.setattr(results, "distance_to_kept_back", lambda made, *_: distance[made.parts[-2]])
    for name, n in copies.items():
        write_json(tmp_path / name / "audit" / "audit.json", {"n_copies": n, "n": 20})
    found = results.choose(tmp_path, ["half", "end"], tmp_path, "tiny", None)
    assert found["state"] == wanted
    assert found["states"]["end"] == {
        "copies": copies["end"],
        "pairs": 20,
        "distance": distance["end"],
    }


def report() -> dict[str, Any]:
    row = {
        "features": "slice network",
        "ratio": 1.5,
        "FID/floor A": 1.0,
        "FID/floor C": 2.0,
        "FID/floor S": 1.5,
    }
    return {
        "options": {"shipped": False, "minutes": 30.0, "pairs": 20},
        "device": "a processor",
        "threads": 2,
        "commit": "abc",
        "quality": {"alignment": 0.987, "volumes_in_range": 0.95, "copies": 1, "pairs": 20},
        "medgen3d-1": [{"generator": "MedGen3D", "LPIPS-type": 0.25, **row}],
        "strategies": {
            "arms": [
                {"strategy": "E2-4", "synthetic": name, "dice": dice}
                for name, dice in (("medgen3d", 0.876), ("gem3d", 0.871))
            ],
            "differences": [],
        },
    }


def test_the_page_says_what_was_measured_and_what_was_not(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = module("results_page")
    write_json(tmp_path / "in" / "small.json", report())
    words = [str(tmp_path / "in"), "--out", str(tmp_path / "results.md")]
    monkeypatch.setattr(sys, "argv", ["results_page.py", *words])
    page.main()
    lines = (tmp_path / "results.md").read_text(encoding="utf-8").splitlines()

    def row(start: str) -> list[str]:
        found = [line for line in lines if line.startswith(f"| {start}")]
        return [cell.strip() for cell in found[0].strip("|").split("|")][-3:]

    assert row("agreement") == ["not measured", "0.987", "not measured"]
    assert row("all labels")[1] == "95 %"
    assert row("seam index") == ["not measured"] * 3
    assert row("MedGen3D")[1] == "1.500 (1.000, 2.000, 1.500); 0.250"
    assert row("E2-4")[1:] == ["medgen3d 0.876; gem3d 0.871", "not measured"]
    assert "every stage trained 30 minutes each" in "\n".join(lines)
    assert not [line for line in lines if line.startswith("<!--")]


def test_the_page_in_the_documentation_is_that_of_the_files(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, docs = module("results_page"), BENCHMARKS.parent / "docs"
    words = [str(docs / "benchmarks" / "results"), "--out", str(tmp_path / "results.md")]
    monkeypatch.setattr(sys, "argv", ["results_page.py", *words])
    page.main()
    assert (tmp_path / "results.md").read_text() == (docs / "results.md").read_text()
    for path in (docs / "benchmarks" / "results").glob("*.json"):
        assert json.loads(path.read_text())["options"]["preset"] == path.stem
