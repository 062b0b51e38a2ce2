"""The judge is opened with what the words say; backbones files; exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common import cli, judging, stages
from common.errors import MedpairError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the opening of configs by one that records what it is given."""
    seen: list[dict[str, Any]] = []

    def open_workflow(bundle: str, kind: str, preset: str, overrides: dict[str, Any]) -> Any:
        seen.append({"bundle": bundle, "kind": kind, "overlay": preset, **overrides})
        return SimpleNamespace(
            parser=SimpleNamespace(get_parsed_content=lambda key: lambda progress: None)
        )

    monkeypatch.setattr(stages, "open_workflow", open_workflow)
    return seen


def test_words_become_keys_of_the_config(opened: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(
        "radimagenet: {weights: rad.pt, size: 96}\nmedicalnet: {weights: hub}\nlpips:\n"
    )
    out = judging.judge(
        real="r", synthetic="s", out=tmp_path / "o", preset="small", backbones=tmp_path / "b.yaml"
    )
    assert out == tmp_path / "o"
    (found,) = opened
    assert (found["bundle"], found["kind"], found["overlay"]) == ("segmentation_eval", "judge", "")
    assert (found["real"], found["synthetic"], found["preset"]) == ("r", "s", "small")
    assert found["backbones"] == {
        "radimagenet": {"weights": str(tmp_path / "rad.pt"), "size": 96},
        "medicalnet": {"weights": "hub"},
        "lpips": {},
    }
    judging.judge(real="r", synthetic="s", out=tmp_path)
    assert set(opened[1]) == {"bundle", "kind", "overlay", "real", "synthetic", "output_dir"}


@pytest.mark.parametrize("content", ["- 1", "radimagenet: x.pt", "a: [", "text"])
def test_another_file_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(content)
    with pytest.raises(MedpairError, match="--backbones: ") as raised:
        judging.read_backbones(tmp_path / "b.yaml")
    assert "\n" not in str(raised.value)
    with pytest.raises(MedpairError, match="cannot be read"):
        judging.read_backbones(tmp_path / "none.yaml")


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["synthetic: pair 7 is left out: x"], 1)])
def test_damaged_pairs_are_named_after_the_report(
    problems: list[str],
    code: int,
    opened: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "judge.json").write_text(json.dumps({"problems": problems}))
    with pytest.raises(SystemExit) as done:
        cli.main(["judge", "--real", "r", "--synthetic", "s", "--out", str(tmp_path)])
    assert done.value.code == code
    said = capsys.readouterr()
    assert f"judge.json in {tmp_path}" in said.out
    assert said.err.splitlines() == [f"error: {line}" for line in problems]
