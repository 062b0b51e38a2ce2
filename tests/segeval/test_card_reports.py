"""Reports of a card: damaged ones, those of other pair sets, and what a verdict makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from segeval.card import Card, update_card
from segeval.card_reports import read_reports
from segeval.card_summary import compared
from segeval.card_values import brief, dig, number_at
from segeval.card_verdicts import answer, read_targets, verdicts
from tests.segeval.card_samples import audit_report, compare_report, judge_report, written

SIZE, MM = (16, 16, 16), (4.0, 4.0, 4.0)
Sets = dict[str, PairSet]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("sets")
    counts = {"real": 4, "made": 3, "other": 3}
    return {
        name: write_phantom_set(folder / name, "brain4", SIZE, count, 50 * n, MM, holdout=0.5)
        for n, (name, count) in enumerate(counts.items())
    }


def refused(out: Path, match: str, **words: Any) -> None:
    """Check that a card is refused in one line, and nothing is written."""
    with pytest.raises(MedpairError, match=match) as raised:
        Card(str(out), **words)()
    assert "\n" not in str(raised.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "damaged, no JSON"),
        ('{"format": "medpair-judge-1", "n": NaN}', "NaN is no number"),
        ('{"format": "medpair-judge-1", "n": 1e999}', "1e999 is too large"),
        ("[1]", "format list, wanted medpair-judge-1"),
        ('{"format": "medpair-audit-1"}', "format medpair-audit-1, wanted medpair-judge-1"),
        ('{"format": "medpair-judge-1"}', "do not say of which pair sets"),
        ('{"format": "medpair-judge-1", "settings": {"sets": []}}', "do not say of which"),
    ],
)
def test_a_damaged_report_is_one_line(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "judge.json"
    path.write_text(text)
    refused(tmp_path / "out", match, judge=str(path))
    refused(tmp_path / "out", match, reports=str(tmp_path))


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    refused(
        tmp_path / "out", "--judge: .*none.json: No such file", judge=str(tmp_path / "none.json")
    )
    refused(tmp_path / "out", "no such folder", reports=str(tmp_path / "none"))
    refused(tmp_path / "out", "no judge.json, audit.json or compare.json", reports=str(tmp_path))


def test_values_outside_their_range_are_refused(sets: Sets, tmp_path: Path) -> None:
    judge = str(written(tmp_path, "judge", judge_report(sets["real"], sets["made"])))
    refused(tmp_path / "out", "targets: 'speed' is unknown", judge=judge, targets={"speed": 1})
    refused(
        tmp_path / "out", "fid_ratio 'x', wanted a number", judge=judge, targets={"fid_ratio": "x"}
    )
    refused(tmp_path / "out", "pairs: 0, wanted at least 1", judge=judge, pairs=0)


def test_reports_of_other_sets_are_refused(sets: Sets, tmp_path: Path) -> None:
    real, made, other = sets.values()
    written(tmp_path, "judge", judge_report(real, made))
    for kind, report in (
        ("audit", audit_report(real, other)),
        ("audit", audit_report(other, made)),
        ("compare", compare_report(real, {"x": other}, strategies=["E2-1"])),
    ):
        files = {"judge": str(tmp_path / "judge.json")}
        files[kind] = str(written(tmp_path / "others", kind, report))
        refused(tmp_path / "out", f"--{kind}: .* pair set .* as judge.json", **files)
    judge = {"judge": str(tmp_path / "judge.json")}
    refused(tmp_path / "out", "--synthetic: .* wanted ", **judge, synthetic=str(other.dir))
    refused(tmp_path / "out", "--real: .* wanted ", **judge, real=str(made.dir))
    refused(tmp_path / "out", "no pair set .no dataset.json", real=str(tmp_path), **judge)


def test_a_report_of_the_right_format_with_other_parts_is_damaged(
    sets: Sets, tmp_path: Path
) -> None:
    report = compare_report(sets["real"], {"made": sets["made"]}, strategies=["E2-1"])
    del report["arms"][0]["cases"]
    path = str(written(tmp_path, "compare", report))
    refused(tmp_path / "out", "compare.json: damaged, a part .*KeyError: 'cases'", compare=path)
    judge = judge_report(sets["real"], sets["made"])
    judge["consistency"]["profiles"]["real"]["D"]["first"] = "one"
    path = str(written(tmp_path, "judge", judge))
    refused(tmp_path / "out", "judge.json: damaged, a part is not", judge=path)


def test_an_audit_that_took_pairs_out_links_both_manifests(sets: Sets, tmp_path: Path) -> None:
    real, made = sets["real"], sets["made"]
    audit = audit_report(real, made) | {"manifest_sha256": "f" * 64, "removed": {"x": "copy"}}
    written(tmp_path, "audit", audit)
    judge = judge_report(real, made)
    for digest in (judge["settings"]["sets"]["synthetic"]["manifest_sha256"], "f" * 64):
        judge["settings"]["sets"]["synthetic"]["manifest_sha256"] = digest
        written(tmp_path, "judge", judge)
        assert set(read_reports(tmp_path, {}).found) == {"judge", "audit"}
    judge["settings"]["sets"]["synthetic"]["manifest_sha256"] = "e" * 64
    written(tmp_path, "judge", judge)
    with pytest.raises(MedpairError, match="synthetic pair set"):
        read_reports(tmp_path, {})


def test_an_update_leaves_out_what_does_not_fit_and_says_so(sets: Sets, tmp_path: Path) -> None:
    real, made, other = sets.values()
    written(tmp_path, "judge", judge_report(real, made))
    written(tmp_path, "audit", audit_report(real, other))
    (tmp_path / "compare.json").write_text("{")
    folders = str(real.dir), [str(other.dir), str(made.dir)]
    update_card("judge", str(tmp_path), *folders)
    content = json.loads((tmp_path / "card.json").read_text())
    assert content["audit"].startswith("not computed: --audit: ")
    assert "damaged, no JSON" in content["compare"]
    html = (tmp_path / "card.html").read_text()
    assert "of the synthetic pair set" in html
    assert content["title"] == "Evaluation of made"
    assert content["pictures"]["real_scans"] is True
    update_card("judge", str(tmp_path), *folders, "generated")
    assert json.loads((tmp_path / "card.json").read_text())["pictures"]["real_scans"] is False
    before = (tmp_path / "card.html").read_bytes()
    update_card("audit", str(tmp_path), *folders, "none")
    assert (tmp_path / "card.html").read_bytes() == before


def test_gains_are_over_real_scans_alone_at_no_fewer_updates(sets: Sets) -> None:
    report = compare_report(sets["real"], {"made": sets["made"]})
    against = {g["strategy"]: (g["against"], g["updates"]) for g in compared(report)["gains"]}
    assert against == {"E2-3": ("E2-1", [100, 100]), "E2-4": ("E2-1-equal", [125, 125])}
    report = compare_report(sets["real"], {"made": sets["made"]}, strategies=["E2-1", "E2-4"])
    (gain,) = compared(report)["gains"]
    assert gain["mean"].startswith("not computed: real scans alone were not trained on")


def contents(sets: Sets, **changes: Any) -> dict[str, Any]:
    """Return summaries, of which a comparison is made."""
    report = compare_report(sets["real"], {"made": sets["made"]}, **changes)
    return {"judge": "not computed: x", "audit": "not computed: y", "compare": compared(report)}


@pytest.mark.parametrize(
    ("gain", "says", "meets"),
    [
        (0.03, "Training on synthetic pairs first, then on real scans, raised Dice by 0.0", True),
        (
            -0.03,
            "Training on synthetic pairs first, then on real scans, lowered Dice by 0.0",
            False,
        ),
        (0.0, "No gain shown: training on synthetic pairs first, then on real scans, ch", False),
    ],
)
def test_the_answer_is_made_of_the_interval(
    gain: float, says: str, meets: bool, sets: Sets
) -> None:
    content = contents(sets, gain=gain)
    content["verdicts"] = verdicts(content, read_targets(None), "E2-4", None)
    first = content["verdicts"][0]
    assert first["meets"] is meets
    assert (first["low"] > 0) is meets
    sentence = answer(content, "E2-4", None, 0.0)[0]
    assert sentence.startswith(says)
    assert f"[{first['low']:+.3f}, {first['high']:+.3f}]" in sentence
    assert "at equal updates (E2-4 minus E2-1-equal, unet3d, set made, 2 seeds, 4 test" in sentence


def test_a_headline_that_was_not_run_gives_way_to_all_others(sets: Sets) -> None:
    content = contents(sets)
    rows = verdicts(content, read_targets(None), "E2-5", None)
    gains = [row["name"] for row in rows if row["name"].startswith("Dice gained")]
    assert [name.split()[3] for name in gains] == ["E2-3", "E2-4"]
    (none,) = [
        r for r in verdicts(content, read_targets(None), "E2-4", ["z"]) if "Dice" in r["name"]
    ]
    assert none["value"].startswith("not computed: no arm")


def test_targets_are_met_on_their_edge(sets: Sets) -> None:
    judge = judge_report(sets["real"], sets["made"])
    audit = {"n": 3, "n_copies": 1, "copies_left": 0}
    content = {"judge": judge, "audit": audit, "compare": "not computed: z"}

    def met(**targets: float) -> dict[str, Any]:
        rows = verdicts(content, read_targets(targets), "E2-4", None)
        return {row["name"]: row["meets"] for row in rows}

    edge = met(alignment_ratio=0.989, seam_index=1.04, fid_ratio=1.5)
    beyond = met(alignment_ratio=0.9891, seam_index=1.0399, fid_ratio=1.4999)
    for name in (
        "Alignment ratio of image and mask",
        "Seam index",
        "FID over its floor, encoder of the segmenter",
    ):
        assert (edge[name], beyond[name]) == (True, False)
    assert edge["Copies of training scans"] is True  # it was taken out
    audit["copies_left"] = 1
    assert met()["Copies of training scans"] is False
    audit["n_copies"] = "not computed: nobody"  # type: ignore[assignment]
    assert met()["Copies of training scans"] == "not computed: nobody"


def test_values_are_found_or_explained() -> None:
    tree = {"a": {"b": 1.5, "c": "not computed: because", "d": True, "e": "word"}}
    assert number_at(tree, "a", "b") == 1.5
    assert dig(tree, "a", "c", "x") == "not computed: because"
    assert number_at(tree, "a", "x") == "not computed: the report holds no a / x"
    for key in ("d", "e"):
        assert number_at(tree, "a", key) == f"not computed: no number for a / {key}"
    assert dig({"a": 3}, "a", "b").startswith("not computed: ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98765, "0.988"),
        (5.172, "5.17"),
        (15.56, "15.6"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (0.0029139, "0.00291"),
        (-0.0022, "-0.0022"),
        (0.0, "0"),
        (60, "60"),
    ],
)
def test_numbers_are_brief(value: float, text: str) -> None:
    assert brief(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+0.012"), (-0.2, "-0.200"), (0.00004, "+4e-05"), (0.0, "+0.000")]
)
def test_differences_carry_their_sign(value: float, text: str) -> None:
    assert brief(value, signed=True) == text
