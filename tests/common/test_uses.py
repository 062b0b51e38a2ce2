"""The uses open their configs with what the words say; wrong data and weights are one error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common import stages, uses
from common.bundles import bundles_dir
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from common.report import page


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Replace the opening of configs by one that records what it is given."""
    seen: list[dict[str, Any]] = []

    def open_workflow(bundle: str, kind: str, preset: str, overrides: dict[str, Any]) -> Any:
        record = {"bundle": bundle, "kind": kind, "preset": preset, **overrides, "ran": False}
        seen.append(record)

        def use(progress: Any) -> None:
            record["ran"] = True

        return SimpleNamespace(parser=SimpleNamespace(get_parsed_content=lambda key: use))

    def write_report(folder: Path, progress: Any) -> None:
        seen[-1]["report"] = folder

    monkeypatch.setattr(stages, "open_workflow", open_workflow)
    monkeypatch.setattr(page, "write_report", write_report)
    return seen


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_phantom_set(folder, "brain4", (48, 40, 40), 2)
    return folder


def test_enhance(opened: list[dict[str, Any]], data: Path, tmp_path: Path) -> None:
    folder = uses.enhance(data=data, out=tmp_path / "o", times=2, weights=tmp_path / "w", seed=3)
    (found,) = opened
    assert folder == tmp_path / "o"
    assert (found["kind"], found["preset"], found["ran"]) == ("enhance", "tiny", True)
    assert found["weights"] == str(tmp_path / "w" / "gem3d_volume" / "model.pt")
    assert (found["times"], found["seed"], found["dataset_dir"]) == (2, 3, str(data))
    assert "mask_augmentation" not in found
    assert found["report"] == folder


def test_mask_augmentation_is_that_of_the_schema(
    opened: list[dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    uses.enhance(data=data, out=tmp_path, mask_augmentation=True, weights=tmp_path)
    found = opened[0]["mask_augmentation"]
    assert found["_target_"] == "gem3d.mask_augment.MaskAugmentation"
    assert found["structures"][0]["labels"] == ["csf"]


def test_counterfactual_gets_the_presets_grid(
    opened: list[dict[str, Any]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uses.counterfactual(image="i", mask="m", edit="e", out="o", weights="w", preset="small")
    found = opened[0]
    assert (found["size"], found["spacing"]) == ([96, 80, 80], [2.0, 2.0, 2.0])
    assert found["image"] == str(tmp_path / "i")
    assert "dataset_dir" not in found
    assert "report" not in found  # its folder is no pair set


def test_a_reference_is_a_file_where_there_is_one(
    opened: list[dict[str, Any]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.nii.gz").touch()
    for reference in ("r.nii.gz", "1000"):
        uses.harmonise(data=data, reference=reference, slice=3, out="o", weights="w")
    assert [o["reference"] for o in opened] == [str(tmp_path / "r.nii.gz"), "1000"]


def test_wrong_data_presets_and_weights_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="no pair set"):
        uses.enhance(data=tmp_path, out=tmp_path / "o")
    with pytest.raises(MedpairError, match="preset small wants"):
        uses.harmonise(data=data, reference="x", slice=1, out=tmp_path / "o", preset="small")
    with pytest.raises(MedpairError, match="preset 'huge' is unknown"):
        uses.enhance(data=data, out=tmp_path / "o", preset="huge")
    with pytest.raises(MedpairError, match="no such weight file"):
        uses.enhance(data=data, out=tmp_path / "o", weights=tmp_path)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("kind", ["enhance", "counterfactual", "harmonise"])
def test_every_use_has_its_config(kind: str) -> None:
    text = (bundles_dir() / uses.BUNDLE / "configs" / f"{kind}.yaml").read_text(encoding="utf-8")
    assert "\nuse:" in text
    assert '"$@use()"' in text
