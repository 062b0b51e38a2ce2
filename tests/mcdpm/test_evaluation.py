"""The mask report from folder to file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from common.evaluation import evaluate
from mcdpm.evaluation import report_masks

SIZE = (32, 32, 32)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real set of six phantoms and a generated one of three others."""
    folder = tmp_path_factory.mktemp("sets")
    spacing = (4.0, 4.0, 4.0)
    write_phantom_set(folder / "real", "brain4", SIZE, 6, 0, spacing)
    write_phantom_set(folder / "made", "brain4", SIZE, 3, 100, spacing)
    return folder / "real", folder / "made"


def test_report_holds_realism_rules_and_novelty(sets: tuple[Path, Path], tmp_path: Path) -> None:
    real, made = sets
    assert evaluate("mcdpm_mask", data=real, synthetic=made, out=tmp_path) == tmp_path
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) >= {"realism", "anatomy", "anatomy_real", "novelty"}
    assert report["anatomy"]["n"] == 3
    assert report["anatomy_real"]["n"] == 6


def test_copies_of_training_masks_are_no_novelty(sets: tuple[Path, Path], tmp_path: Path) -> None:
    real, _ = sets
    report = json.loads(report_masks(str(real), str(real), str(tmp_path)).read_text())
    assert report["novelty"]["max"] == pytest.approx(1.0)
    assert report["novelty"]["share_above"] > 0.5


def test_a_folder_without_masks_is_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match=r"no labels/\*\.nii\.gz"):
        report_masks(str(sets[0]), str(tmp_path / "empty"), str(tmp_path))


def test_masks_of_another_schema_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    write_phantom_set(tmp_path / "other", "lesion1", SIZE, 1, 0, (4.0, 4.0, 4.0))
    with pytest.raises(MedpairError, match="schema lesion1, wanted brain4"):
        report_masks(str(sets[0]), str(tmp_path / "other"), str(tmp_path))
