"""The card is opened with what the words say; exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common import auditing, cards, cli, comparison, judging, stages
from common.cli_cards import named_numbers
from common.errors import MedpairError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the opening of configs by one that records what it is given."""
    seen: list[dict[str, Any]] = []

    def open_workflow(bundle: str, kind: str, preset: str, overrides: dict[str, Any]) -> Any:
        seen.append({"bundle": bundle, "kind": kind, **overrides})
        parser = SimpleNamespace(get_parsed_content=lambda key: lambda progress: None)
        return SimpleNamespace(parser=parser)

    monkeypatch.setattr(stages, "open_workflow", open_workflow)
    return seen


def test_words_become_keys_of_the_config(opened: list[dict[str, Any]], tmp_path: Path) -> None:
    out = cards.card("o", out=tmp_path, real="r", real_pictures=False, targets={"copies": 1.0})
    assert out == tmp_path
    named = {"bundle": "segmentation_eval", "kind": "card", "output_dir": str(tmp_path)}
    assert opened[0] == named | {
        "reports": "o",
        "real": "r",
        "real_pictures": False,
        "targets": {"copies": 1.0},
    }
    cards.card(judge="j", out=tmp_path)
    assert opened[1] == named | {"judge": "j"}


def test_other_commands_write_a_card_without_real_slices_on_request(
    opened: list[dict[str, Any]], tmp_path: Path
) -> None:
    judging.judge(real="r", synthetic="s", out=tmp_path, real_pictures=False)
    auditing.audit("s", real="r", out=tmp_path, real_pictures=False)
    comparison.compare(real="r", out=tmp_path, real_pictures=False)
    assert [seen["card"] for seen in opened] == ["generated"] * 3
    comparison.compare(real="r", out=tmp_path)
    assert "card" not in opened[3]


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["real: pair 7 is left out: x"], 1)])
def test_the_command_says_the_answer(
    problems: list[str],
    code: int,
    opened: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = {"problems": problems, "answer": ["No gain shown.", "3 of 4."]}
    (tmp_path / "card.json").write_text(json.dumps(content))
    words = ["card", "reports", "--judge", "j", "--target", "fid_ratio=1.5", "--no-real-pictures"]
    with pytest.raises(SystemExit) as done:
        cli.main([*words, "--out", str(tmp_path)])
    assert done.value.code == code
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "No gain shown. 3 of 4."
    assert [line for line in said.err.splitlines() if line.startswith("error")] == [
        f"error: {line}" for line in problems
    ]
    assert opened[0]["targets"] == {"fid_ratio": 1.5}
    assert opened[0]["real_pictures"] is False


@pytest.mark.parametrize("text", ["fid_ratio", "fid_ratio=", "fid_ratio=x"])
def test_a_target_is_a_name_and_a_number(text: str) -> None:
    with pytest.raises(MedpairError, match="wanted NAME=NUMBER"):
        named_numbers([text], "--target")
