"""The page of a card: whole, accessible, of equal bytes, and with the numbers of its JSON."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from segeval import card as card_module
from segeval.audit import FORMAT as AUDIT_FORMAT
from segeval.card import Card
from segeval.card_reports import FORMATS
from segeval.card_values import brief
from segeval.compare import FORMAT as COMPARE_FORMAT
from segeval.judge import FORMAT as JUDGE_FORMAT
from tests.segeval.card_samples import audit_report, compare_report, judge_report, written

SIZE, MM = (16, 16, 16), (4.0, 4.0, 4.0)
VOID = {"meta", "img", "br", "link", "input"}
STRANGE = "<b>&\"set' $x_1$"
LOW = ("E2-1", "E2-1-equal", "E2-3", "E2-4", "low-5-real", "low-5-tuned")


class Page(HTMLParser):
    """Reads a page and complains of tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if not self.open:
            return
        tag, attrs = self.tags[-1]
        if tag == "data" and self.open[-1] == "data":
            self.values.append((str(attrs["value"]), data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[PairSet, PairSet]:
    """Real phantoms, two of them kept back, and generated ones."""
    folder = tmp_path_factory.mktemp("sets")
    real = write_phantom_set(folder / "real", "brain4", SIZE, 5, 0, MM, holdout=0.4)
    made = write_phantom_set(folder / "<i>&made", "brain4", SIZE, 4, 100, MM, holdout=0.0)
    return real, made


@pytest.fixture(scope="module")
def reports(sets: tuple[PairSet, PairSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three reports; the comparison calls the generated set by a strange name."""
    folder = tmp_path_factory.mktemp("reports")
    real, made = sets
    written(folder, "judge", judge_report(real, made))
    written(folder, "audit", audit_report(real, made, copies=[made.ids()[2]]))
    written(folder, "compare", compare_report(real, {STRANGE: made}, strategies=LOW))
    return folder


def make(sets: tuple[PairSet, PairSet], reports: Path, out: Path, **options: Any) -> dict[str, Any]:
    real, made = (str(pairs.dir) for pairs in sets)
    words = {"reports": str(reports), "real": real, "synthetic": made} | options
    return Card(str(out), **words)()


@pytest.fixture(scope="module")
def whole(
    sets: tuple[PairSet, PairSet], reports: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("whole")
    made = make(sets, reports, out)
    assert json.loads((out / "card.json").read_text()) == json.loads(json.dumps(made))
    return out


def html_of(out: Path) -> str:
    return (out / "card.html").read_text(encoding="utf-8")


def images(page: Page, kind: str) -> list[bytes]:
    found = [str(attrs["src"]).partition(",") for attrs in page.of("img")]
    return [base64.b64decode(data) for head, _, data in found if kind in head]


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(value)
    else:
        yield tree


def test_the_formats_are_those_that_are_written() -> None:
    assert FORMATS == {"judge": JUDGE_FORMAT, "audit": AUDIT_FORMAT, "compare": COMPARE_FORMAT}


def test_the_page_stands_alone(whole: Path) -> None:
    html = html_of(whole)
    page = Page(html)
    assert len(html) < 3_000_000
    assert not re.search(r"https?:|url\(|@import|<script|<link|srcset", html)
    assert all(str(attrs["src"]).startswith("data:image/") for attrs in page.of("img"))
    policy = next(a for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")
    for svg in images(page, "svg"):
        text = svg.decode()
        assert set(re.findall(r'https?://[^"]+', text)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
        assert "<script" not in text


def test_the_page_can_be_read_without_seeing_it(whole: Path) -> None:
    html = html_of(whole)
    page = Page(html)
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("h1")) == 1
    assert all(len(str(attrs["alt"])) > 20 for attrs in page.of("img"))
    assert len(page.of("caption")) == len(page.of("table")) > 8
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.of("th"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    assert named <= set(ids)


def test_every_plot_and_picture_is_there(whole: Path) -> None:
    page = Page(html_of(whole))
    assert len(images(page, "svg")) == 7
    assert len(images(page, "png")) == 2 + 2 * 4  # montages, and pairs beside scans
    assert "few real scans" in page.text.lower()
    order = [word for word in page.texts if word.startswith("phantom-")]
    assert order[0] == "phantom-0102"  # the copy stands first
    assert page.text.count("✗ copy") == 1


def test_numbers_of_the_page_are_those_of_the_json(whole: Path) -> None:
    content = json.loads((whole / "card.json").read_text())
    known = {float(v) for v in leaves(content) if isinstance(v, int | float)}
    page = Page(html_of(whole))
    assert len(page.values) > 100
    for value, text in page.values:
        number = json.loads(value)
        assert float(number) in known
        assert text in (brief(number), brief(number, signed=True))
    shown = {float(value) for value, _ in page.values}
    for verdict in content["verdicts"]:
        for key in ("value", "low", "high", "floor", "target"):
            if isinstance(verdict[key], float):
                assert verdict[key] in shown
    assert all(sentence in page.text for sentence in content["answer"])


def test_equal_inputs_give_equal_bytes(
    sets: tuple[PairSet, PairSet], reports: Path, whole: Path, tmp_path: Path
) -> None:
    make(sets, reports, tmp_path)
    for name in ("card.html", "card.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_names_are_shown_and_never_become_tags(whole: Path) -> None:
    page = Page(html_of(whole))
    assert page.of("b") == page.of("i") == []
    assert STRANGE in page.text
    assert "Evaluation of <i>&made" in page.text
    assert any(STRANGE in str(attrs["alt"]) for attrs in page.of("img"))


def test_real_slices_are_announced_or_left_out(
    sets: tuple[PairSet, PairSet], reports: Path, whole: Path, tmp_path: Path
) -> None:
    page = Page(html_of(whole))
    real = images(page, "png")
    assert page.texts.index(next(t for t in page.texts if "shows slices of real" in t)) < 20
    content = make(sets, reports, tmp_path, real_pictures=False)
    without = Page(html_of(tmp_path))
    assert "shows slices of real scans" not in without.text
    assert "pictures of real scans are left out" in without.text
    (montage,) = images(without, "png")
    assert montage in real  # that of the generated pairs
    assert not any("real scan" in str(a["alt"]) for a in without.of("img") if a["class"] != "plot")
    assert content["pictures"]["real_scans"] is False


def test_without_pair_sets_nothing_real_can_be_shown(reports: Path, tmp_path: Path) -> None:
    content = Card(str(tmp_path), judge=str(reports / "judge.json"))()
    page = Page(html_of(tmp_path))
    assert "shows slices of real scans" not in page.text
    assert images(page, "png") == []
    assert content["ranges"] == "not computed: no pair set is given (--synthetic)"
    assert "Volume per label: not computed: no pair set is given" in page.text


def test_masks_of_real_scans_count_as_real(
    sets: tuple[PairSet, PairSet], reports: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    shutil.copytree(sets[1].dir, made)
    lines = (made / "manifest.jsonl").read_text().splitlines()
    marked = [json.loads(line) | {"source": {"mask": "x", "person": "x"}} for line in lines]
    (made / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in marked))
    report = judge_report(sets[0], PairSet.open(made))
    judge = str(written(tmp_path, "judge", report))
    pictures = []
    for shows in (True, False):
        words = {"synthetic": str(made), "real_pictures": shows}
        Card(str(tmp_path / str(shows)), judge=judge, **words)()
        pictures.append(Page(html_of(tmp_path / str(shows))))
    heights = [int(str(page.of("img")[-1]["height"])) for page in pictures]
    assert heights[0] == 2 * heights[1]
    assert "(image, mask)" in pictures[0].text
    assert "(image, mask)" not in pictures[1].text


@pytest.mark.parametrize("kind", ["judge", "audit", "compare"])
def test_a_card_of_one_report_says_what_is_lacking(
    kind: str, reports: Path, tmp_path: Path
) -> None:
    content = Card(str(tmp_path), **{kind: str(reports / f"{kind}.json")})()
    page = Page(html_of(tmp_path))
    for other in {"judge", "audit", "compare"} - {kind}:
        assert content[other] == f"not computed: no {other}.json; run medpair {other}"
        assert content[other] in page.text
    known = [row for row in content["verdicts"] if not isinstance(row["meets"], str)]
    assert len(known) == {"judge": 3, "audit": 1, "compare": 1}[kind]
    assert f"{sum(row['meets'] for row in known)} of {len(known)} targets are met" in page.text


def test_reports_without_their_parts_are_shown_as_such(
    sets: tuple[PairSet, PairSet], tmp_path: Path
) -> None:
    for kind, report in (("judge", judge_report(*sets)), ("audit", audit_report(*sets))):
        bare = {key: report[key] for key in ("format", "settings")}
        content = Card(str(tmp_path / kind), **{kind: str(written(tmp_path, kind, bare))})()
        page = Page(html_of(tmp_path / kind))
        assert all(isinstance(row["meets"], str) for row in content["verdicts"])
        assert "not computed: the report holds no " in page.text


def test_a_damaged_pair_is_named_and_the_others_are_shown(
    sets: tuple[PairSet, PairSet], reports: Path, tmp_path: Path
) -> None:
    made = tmp_path / sets[1].dir.name
    shutil.copytree(sets[1].dir, made)
    (made / "images" / "phantom-0100.nii.gz").write_bytes(b"broken")
    words = {"judge": str(reports / "judge.json"), "real": str(sets[0].dir)}
    content = Card(str(tmp_path / "out"), synthetic=str(made), **words)()
    (problem,) = content["problems"]
    assert problem.startswith("synthetic: pair phantom-0100 is left out: ")
    assert problem in Page(html_of(tmp_path / "out")).text
    assert content["ranges"]["volume_ml"]["cortex"]["synthetic"]["n"] == 3


def test_a_large_page_shows_fewer_pairs(
    sets: tuple[PairSet, PairSet],
    reports: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(card_module, "MOST_BYTES", 1)
    words = {"real": str(sets[0].dir), "synthetic": str(sets[1].dir)}
    content = Card(str(tmp_path), audit=str(reports / "audit.json"), **words)()
    assert (content["pictures"]["pairs"], content["settings"]["pairs"]) == (1, 4)
    assert len(images(Page(html_of(tmp_path)), "png")) == 2 + 2 * 1


def test_ranges_are_those_of_the_pairs(sets: tuple[PairSet, PairSet], whole: Path) -> None:
    found = json.loads((whole / "card.json").read_text())["ranges"]["volume_ml"]["white_matter"]
    voxels = [sets[1].record(name)["voxels"]["white_matter"] for name in sets[1].ids()]
    assert found["synthetic"]["low"] == pytest.approx(min(voxels) * 64 / 1000)
    assert found["synthetic"]["high"] == pytest.approx(max(voxels) * 64 / 1000)
    assert (found["synthetic"]["n"], found["real"]["n"]) == (4, 5)
    within = [found["real"]["low"] <= n * 0.064 <= found["real"]["high"] for n in voxels]
    assert found["inside"] == pytest.approx(sum(within) / 4)


def test_the_config_names_what_the_card_takes() -> None:
    text = (bundles_dir() / "segmentation_eval" / "configs" / "card.yaml").read_text()
    for key in Card.__dataclass_fields__:
        assert f'  {key}: "@{key}"' in text
