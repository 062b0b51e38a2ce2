"""Progress goes to a terminal as bars and to a file as sparse lines."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from common import bars as bars_module
from common.progress import silent


def test_a_terminal_gets_one_bar_per_task() -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    with bars_module.shown(console) as report:
        for done in range(4):
            report("masks", done, 3)
        report("images", 1, 2)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    bars = [line.split() for line in plain.splitlines() if line.strip()][-2:]
    assert [(bar[0], bar[2]) for bar in bars] == [("masks", "3/3"), ("images", "1/2")]


def test_steps_of_minutes_show_the_time_left() -> None:
    """Steps of 100 s, two of six left; the two that a checkpoint had took no time now."""
    seconds = [0.0]
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=100, get_time=lambda: seconds[0])
    with bars_module.shown(console) as report:
        report("masks", 2, 6)
        seconds[0] = 100.0
        report("masks", 3, 6)
        seconds[0] = 200.0
        report("masks", 4, 6)
    assert "0:03:20" in text.getvalue()


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    text = StringIO()
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(bars_module.time, "monotonic", lambda: next(clock))
    with bars_module.shown(Console(file=text, force_terminal=False)) as report:
        for done in range(11):
            report("masks", done, 10)
    assert text.getvalue().splitlines() == [
        "masks: 0/10",
        "masks: 4/10",
        "masks: 8/10",
        "masks: 10/10",
    ]


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent("masks", 1, 2)
    assert capsys.readouterr() == ("", "")
