"""The page holds what the manifest says, escapes it, and stays small."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medpair
from common import cli
from common.bundles import bundles_dir
from common.data.datasets import Pair, PairSet
from common.data.labels import LabelSchema, load_schema
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from common.io.manifest import sha256
from common.report import page, vendored
from common.report.page import update_report, write_report

SIZE = (24, 20, 16)
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


class Reader(HTMLParser):
    """Collects the text of scripts by id, all tags, and all addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self.links: list[str] = []
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [str(found[key]) for key in ("href", "src") if key in found]
        self._open = (found.get("id") or "code") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.scripts["data"]))


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


@pytest.fixture
def phantoms(tmp_path: Path) -> PairSet:
    pairs = write_phantom_set(tmp_path / "set", "brain4", SIZE, n=3)
    pairs.log({"stage": "prepare", "id": pairs.ids()[0], "seconds": 2.5})
    return pairs


def test_facts_equal_the_manifest(phantoms: PairSet) -> None:
    shown = read(write_report(phantoms.dir))
    assert [facts["id"] for facts in shown.data["pairs"]] == list(phantoms.ids())
    voxel = float(np.prod(phantoms.spacing or ())) / 1000
    for facts, record in zip(shown.data["pairs"], phantoms.manifest, strict=True):
        voxels = record["voxels"]
        assert facts["seed"] == record["seed"]
        assert facts["split"] == record["split"]
        assert facts["shape"] == record["shape"]
        present = {name: count * voxel for name, count in voxels.items() if count}
        assert facts["volumes"] == pytest.approx(present, rel=1e-4)
        assert facts["total_ml"] == pytest.approx(sum(present.values()), rel=1e-4)
        assert sum(map(sum, facts["histograms"].values())) == sum(voxels.values())
        assert {k: sum(row) for k, row in facts["histograms"].items()} == {
            name: count for name, count in voxels.items() if count
        }
    assert [facts["seconds"] for facts in shown.data["pairs"]] == [2.5, None, None]


def test_colours_are_those_of_the_schema(phantoms: PairSet) -> None:
    text = write_report(phantoms.dir).read_text(encoding="utf-8")
    labels = {label["name"]: label["colour"] for label in Reader(text).data["labels"]}
    assert labels == {label.name: list(label.colour) for label in phantoms.schema.labels}
    for label in phantoms.schema.labels:
        assert "rgb({}, {}, {})".format(*label.colour) in text


def test_it_needs_only_the_viewer_beside_it(phantoms: PairSet) -> None:
    path = write_report(phantoms.dir)
    shown = read(path)
    files = {f"{kind}/{name}.nii.gz" for kind in ("images", "labels") for name in phantoms.ids()}
    outside = {link for link in shown.links if not link.startswith("#")}
    assert outside == files  # links, not loads
    assert {name for name in shown.scripts if name.startswith("image-")} == {
        f"image-{n}" for n in range(3)
    }
    assert shown.data["script"] == vendored.SCRIPT
    assert sha256(path.parent / vendored.SCRIPT) == vendored.script_sha256()
    assert "BSD 2-Clause" in (path.parent / vendored.LICENCE).read_text(encoding="utf-8")


def test_the_code_is_the_only_one_that_may_run(phantoms: PairSet) -> None:
    text = write_report(phantoms.dir).read_text(encoding="utf-8")
    code = Reader(text).scripts["code"]
    named = re.search(r"'sha256-([^']+)'", text)
    assert named is not None
    assert named[1] == base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert "'unsafe-inline'" not in text.split("style-src")[0]


def test_text_is_escaped(tmp_path: Path) -> None:
    plain = load_schema("brain4").to_dict()
    plain["labels"][3]["name"] = HOSTILE
    plain |= {"groups": {}, "sources": {}, "intensity_order": []}
    schema = LabelSchema.from_dict(plain)
    pairs = PairSet.create(tmp_path / "set", schema, (4, 4, 4), None, {"method": HOSTILE})
    label = np.full((4, 4, 4), 4, np.uint8)
    one = Pair(HOSTILE.replace("/", ""), label / np.float32(8), label, np.eye(4))
    pairs.write(one, {"person": HOSTILE, "seed": HOSTILE, "gate": HOSTILE, "source": "generated"})
    text = write_report(pairs.dir).read_text(encoding="utf-8")
    shown = Reader(text)
    assert "img" not in shown.tags
    assert "<img" not in text
    assert shown.data["pairs"][0]["person"] == HOSTILE
    assert shown.data["labels"][3]["name"] == HOSTILE


def test_equal_sets_give_equal_bytes_but_for_seconds(phantoms: PairSet, tmp_path: Path) -> None:
    again = write_phantom_set(tmp_path / "again" / "set", "brain4", SIZE, n=3)
    again.log({"stage": "prepare", "id": again.ids()[0], "seconds": 2.5})
    first, second = (write_report(pairs.dir).read_bytes() for pairs in (phantoms, again))
    assert first == second
    again.log({"stage": "prepare", "id": again.ids()[0], "seconds": 1})
    other = write_report(again.dir)
    assert other.read_bytes() != first
    (again.dir / "run.jsonl").unlink()
    (phantoms.dir / "run.jsonl").unlink()
    assert write_report(again.dir).read_bytes() == write_report(phantoms.dir).read_bytes()


def test_real_ranges_where_they_fit(tmp_path: Path) -> None:
    pairs = write_phantom_set(tmp_path / "set", "brain4", (48, 40, 40), n=1, spacing=(4, 4, 4))
    path = bundles_dir() / "segmentation_eval" / "models" / "model_ranges.json"
    wanted = json.loads(path.read_text(encoding="utf-8"))
    written = write_report(pairs.dir)
    shown = read(written).data
    ranges = {label["name"]: label["range"] for label in shown["labels"]}
    assert ranges == wanted["fraction"] | {"brain": None}
    assert shown["total_ml"] == [v / 1000 for v in wanted["volume_mm3"]]
    assert "20 real scans" in written.read_text(encoding="utf-8")
    pairs.header["generated"] = {"gate": {"ranges_sha256": "0" * 64}}  # a gate of other weights
    content = page.collect(pairs, pairs.dir)
    assert "no ranges of real scans are known" in page.render(pairs, content)


def test_else_the_range_of_the_set(phantoms: PairSet) -> None:
    shown = read(write_report(phantoms.dir)).data
    for label in shown["labels"]:
        shares = [facts["shares"].get(label["name"]) for facts in shown["pairs"]]
        assert label["range"] == (None if label["name"] == "brain" else [min(shares), max(shares)])
    assert shown["total_ml"] is None


def test_scans_are_named_on_top(phantoms: PairSet, tmp_path: Path) -> None:
    assert 'id="real-scans"' not in write_report(phantoms.dir).read_text(encoding="utf-8")
    one = phantoms.read(phantoms.ids()[0])
    phantoms.write(one, {"source": {"image": "a_T1.nii.gz", "label": "a.nii.gz"}})
    text = write_report(phantoms.dir).read_text(encoding="utf-8")
    assert text.index('id="real-scans"') < text.index("<h1>")


def test_a_damaged_pair_is_named_and_the_others_shown(phantoms: PairSet) -> None:
    image, _ = phantoms.paths(phantoms.ids()[1])
    image.write_bytes(image.read_bytes()[:100])
    shown = read(write_report(phantoms.dir))
    assert {"image-0", "image-2"} <= set(shown.scripts)
    assert "image-1" not in shown.scripts
    assert image.name in (phantoms.dir / "report.html").read_text(encoding="utf-8")


def test_previews_stop_where_the_page_is_full(
    phantoms: PairSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_PREVIEWS", 1)
    shown = read(write_report(phantoms.dir))
    assert [n for n in range(3) if f"image-{n}" in shown.scripts] == [0]
    assert len(shown.data["pairs"]) == 3


def test_another_folder_and_the_card(phantoms: PairSet, tmp_path: Path) -> None:
    out = tmp_path / "out folder"
    out.mkdir()
    assert "card.html" not in write_report(phantoms.dir, out).read_text(encoding="utf-8")
    (out / "card.html").touch()
    shown = read(write_report(phantoms.dir, out))
    assert "card.html" in shown.links
    assert f"../set/images/{phantoms.ids()[0]}.nii.gz" in shown.links


def test_it_is_written_again_where_pairs_are_new(phantoms: PairSet) -> None:
    assert not update_report(phantoms.dir, least=4)
    assert not (phantoms.dir / "report.html").exists()
    assert update_report(phantoms.dir, least=3)
    assert not update_report(phantoms.dir)
    phantoms.remove(phantoms.ids()[0])
    assert update_report(phantoms.dir)
    assert len(read(phantoms.dir / "report.html").data["pairs"]) == 2


def test_no_pairs_and_no_set(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="no pair set"):
        write_report(tmp_path)
    PairSet.create(tmp_path / "set", load_schema("brain4"), None, None, {})
    with pytest.raises(MedpairError, match="no pair is finished"):
        write_report(tmp_path / "set")


def test_the_command(phantoms: PairSet, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(phantoms.dir)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == str(phantoms.dir / "report.html")
    assert medpair.report(phantoms.dir) == phantoms.dir / "report.html"


def test_the_viewer_is_the_one_that_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sha256(vendored.VENDOR / vendored.SCRIPT) == vendored.script_sha256()
    licence = (vendored.VENDOR / "LICENSE").read_text(encoding="utf-8")
    assert f"@niivue/niivue {vendored.RELEASE}" in licence
    changed = tmp_path / "vendor"
    shutil.copytree(vendored.VENDOR, changed)
    (changed / vendored.SCRIPT).write_text("alert(1)")
    monkeypatch.setattr(vendored, "VENDOR", changed)
    with pytest.raises(MedpairError, match="install medpair again"):
        vendored.put_viewer(tmp_path)
