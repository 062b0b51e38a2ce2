"""The audit on phantoms: a generator that repeats a training scan is found, a fair one is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import run as bundle_run  # what `python -m monai.bundle run` calls

from common import auditing
from common.bundles import bundles_dir
from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.errors import MedpairError
from common.info import describe
from segeval.audit import Audit
from segeval.embedding import Contrast

SIZE = (24, 20, 20)
SHORT = Contrast(updates=40, channels=(16, 32), features=16, learning_rate=0.003)
CANARY = 3
Image = np.ndarray


def noised(image: Image) -> Image:
    noise = np.random.default_rng(0).normal(0, 0.05, image.shape)
    return np.asarray(np.where(image > 0, image + noise, 0), np.float32)


VARIANTS: dict[str, Callable[[Image], Image]] = {
    "exact": lambda image: image,
    "mirrored": lambda image: image[..., ::-1],
    "shifted": lambda image: np.roll(image, (2, -1, 1), axis=(0, 1, 2)),
    "noised": noised,
    "gamma": lambda image: image**1.3,
}


def write(folder: Path, pairs: Iterator[tuple[str, Image, np.ndarray, dict[str, Any]]]) -> PairSet:
    made = PairSet.create(folder, load_schema("brain4"), (4.0, 4.0, 4.0), SIZE, {})
    for name, image, label, record in pairs:
        clean = np.ascontiguousarray(image, np.float32), np.ascontiguousarray(label)
        made.write(Pair(name, *clean, np.eye(4)), record)
    return made


def brain(seed: int) -> tuple[Image, np.ndarray]:
    """Return image and mask of a person, with room around it for a shift."""
    image, label = make_phantom("brain4", (20, 16, 16), seed)
    return np.pad(image, 2).clip(0, 1), np.pad(label, 2)


def phantoms(first: int, count: int, prefix: str, split: str = "training") -> Iterator[Any]:
    for seed in range(first, first + count):
        yield f"{prefix}{seed}", *brain(seed), {"split": split}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scans that were trained on, twenty of other persons."""
    folder = tmp_path_factory.mktemp("real")
    write(folder, phantoms(0, 10, "t"))
    write(folder, phantoms(10, 20, "h", "validation"))
    return folder


def fair() -> Iterator[Any]:
    """Pairs of persons that nobody has seen."""
    return phantoms(500, 4, "fair")


def canaries() -> Iterator[Any]:
    """What a generator makes that has learned one scan by heart."""
    image, label = brain(CANARY)
    for name, change in VARIANTS.items():
        moved = name in ("mirrored", "shifted")
        yield f"canary-{name}", change(image), change(label) if moved else label, {}


@pytest.fixture(scope="module")
def memorised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memorised")
    write(folder, canaries())
    write(folder, fair())
    return folder


def audit(synthetic: Path, real: Path, out: Path, **changes: Any) -> dict[str, Any]:
    words = {"embedding": SHORT, **changes}
    return Audit(str(synthetic), str(real), str(out), **words)()


@pytest.fixture(scope="module")
def report(memorised: Path, real: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out")
    audit(memorised, real, out)
    found: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return found


def test_every_change_of_the_canary_is_flagged(report: dict[str, Any]) -> None:
    assert {name: copy["training"] for name, copy in report["copies"].items()} == {
        f"canary-{name}": f"t{CANARY}" for name in VARIANTS
    }
    assert (report["n_copies"], report["n_mem"]) == (len(VARIANTS), 1)
    assert report["copies_left"] == sorted(report["copies"])
    by = report["copies"]["canary-exact"]["by"]
    assert set(by) == {"detail", "embedding"}
    for value, limit in by.values():
        assert value == pytest.approx(1, abs=0.01)
        assert limit < 0.99


def test_fair_pairs_are_not_flagged(report: dict[str, Any]) -> None:
    fair_ones = {name for name, *_ in fair()}
    assert len(fair_ones) == 4
    assert not fair_ones & set(report["copies"])
    for measure in ("detail", "embedding", "mask"):
        assert not fair_ones & set(report["measures"][measure]["copies"])


def test_a_set_that_never_saw_the_canary_is_clean(real: Path, tmp_path: Path) -> None:
    synthetic = write(tmp_path / "s", fair())
    found = audit(synthetic.dir, real, tmp_path / "o", rows=2)
    assert (found["n_copies"], found["n_mem"], found["copies"]) == (0, 0, {})
    line = dict(describe(synthetic.dir))["audit"]
    assert line.startswith("0 copies among 4 pairs")
    assert line.endswith("against 10 training and 20 kept-back scans)")


def test_what_the_numbers_rest_on_is_said(report: dict[str, Any]) -> None:
    assert report["format"] == "medpair-audit-1"
    assert (report["n"], report["n_training"], report["n_held_out"]) == (9, 10, 20)
    sets = report["settings"]["sets"]
    assert all(len(sets[name]["manifest_sha256"]) == 64 for name in sets)
    assert report["settings"]["embedding"]["updates"] == SHORT.updates
    for measure in ("plain", "detail", "embedding", "mask"):
        found = report["measures"][measure]
        reference = found["references"]["held_out"]
        assert (reference["n"], reference["is_maximum"]) == (20, True)
        assert found["threshold"] >= reference["percentile"]
        assert found["by_chance"] == pytest.approx(1 / 31)
        assert 0 <= found["membership"]["low"] <= found["membership"]["high"] <= 1
        assert found["volumes"]["canary-exact"]["ratio"] < 0.1
    assert report["measures"]["mask"]["copied"] == [f"t{CANARY}"]
    assert report["slices"]["detail"]["volumes"]["canary-exact"]["nearest"] == f"t{CANARY}"
    assert report["informed"] == "not computed: the manifest names no informed slices"


def test_equal_inputs_give_equal_bytes(
    memorised: Path, real: Path, report: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    quick = {"embedding": replace(SHORT, updates=2), "rows": 1}
    for name in "ab":
        audit(memorised, real, tmp_path / name, **quick)
    one, other = ((tmp_path / name / "audit.json").read_bytes() for name in "ab")
    assert one == other


@pytest.mark.parametrize("action", ["drop", "quarantine"])
def test_copies_are_taken_out(real: Path, tmp_path: Path, action: str) -> None:
    synthetic = write(tmp_path / "s", iter([*canaries(), *fair()][:6]))
    found = audit(synthetic.dir, real, tmp_path / "o", action=action)
    left = PairSet.open(synthetic.dir)
    assert left.ids() == ("fair500",)
    assert found["copies_left"] == []
    assert set(found["removed"]) == set(found["copies"])
    reason = found["removed"]["canary-exact"]
    assert reason.startswith(f"copy of training scan t{CANARY}: detail 1.000 > 0.")
    kept = synthetic.dir / "quarantine"
    assert kept.exists() == (action == "quarantine")
    if kept.exists():
        assert set(PairSet.open(kept).ids()) == set(found["copies"])
    assert dict(describe(synthetic.dir))["audit"].startswith("0 copies among 1 pairs, 5 taken out")
    again = audit(synthetic.dir, real, tmp_path / "o", action=action)
    assert (again["n_copies"], len(again["removed"])) == (0, 5)


def quick(synthetic: Path, training: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return audit(synthetic, training, out, embedding=replace(SHORT, updates=1), rows=1, **changes)


def test_a_damaged_pair_is_named_and_the_others_go_on(real: Path, tmp_path: Path) -> None:
    synthetic = write(tmp_path / "s", fair())
    synthetic.paths("fair501")[0].write_bytes(b"no image")
    found = quick(synthetic.dir, real, tmp_path / "o")
    assert found["n"] == 3
    (line,) = found["problems"]
    assert line.startswith("synthetic: pair fair501 is left out: ")


def test_empty_masks_and_constant_images_have_numbers_or_reasons(
    real: Path, tmp_path: Path
) -> None:
    flat = np.full(SIZE, 0.5, np.float32)
    empty = np.zeros(SIZE, np.uint8)
    pairs = [("flat", flat, empty, {}), ("none", 0 * flat, empty, {})]
    synthetic = write(tmp_path / "s", iter(pairs))
    found = quick(synthetic.dir, real, tmp_path / "o")
    assert found["slices"] == "not computed: the masks are empty"
    assert "flat" not in found["measures"]["detail"]["copies"]
    mask = found["measures"]["mask"]["volumes"]["flat"]
    assert mask["likeness"] == 0


def test_few_scans_give_reasons(real: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few", phantoms(0, 3, "t"))
    synthetic = write(tmp_path / "s", phantoms(2, 2, "s"))
    found = quick(synthetic.dir, few.dir, tmp_path / "o")
    assert found["measures"]["embedding"].startswith("not computed: N=3 training scans")
    assert found["n_held_out"] == 0
    detail = found["measures"]["detail"]
    assert detail["references"]["held_out"]["n"] == 0
    assert detail["copies"] == ["s2"]  # against the training scans' own likeness
    assert detail["membership"]["auc"].startswith("not computed")
    alone = write(tmp_path / "alone", phantoms(0, 1, "t"))
    found = quick(synthetic.dir, alone.dir, tmp_path / "o")
    assert found["n_copies"].startswith("not computed: there are no scans of different persons")


def test_kept_back_scans_may_be_a_set_of_their_own(real: Path, tmp_path: Path) -> None:
    training = write(tmp_path / "t", phantoms(0, 4, "t"))
    others = write(tmp_path / "h", phantoms(40, 3, "h"))
    synthetic = write(tmp_path / "s", phantoms(500, 1, "s"))
    found = quick(synthetic.dir, training.dir, tmp_path / "o", held_out_dir=str(others.dir))
    assert (found["n_training"], found["n_held_out"]) == (4, 3)


def test_sets_that_do_not_fit_are_refused(real: Path, memorised: Path, tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match=r"10 of its persons are in training too \(t0\)"):
        quick(memorised, real, tmp_path, held_out_dir=str(real))
    small = PairSet.create(tmp_path / "small", load_schema("brain4"), (4.0,) * 3, None, {})
    small.write(Pair("s", *make_phantom("brain4", (16, 16, 16), 0), np.eye(4)))
    with pytest.raises(MedpairError, match="wanted one size"):
        quick(small.dir, real, tmp_path)
    fine = PairSet.create(tmp_path / "fine", load_schema("brain4"), (2.0,) * 3, SIZE, {})
    with pytest.raises(MedpairError, match="spacing"):
        quick(fine.dir, real, tmp_path)
    empty = PairSet.create(tmp_path / "empty", load_schema("brain4"), (4.0,) * 3, SIZE, {})
    with pytest.raises(MedpairError, match="no synthetic pair can be read"):
        quick(empty.dir, real, tmp_path)
    with pytest.raises(MedpairError, match="no pair set"):
        quick(tmp_path / "nowhere", real, tmp_path)
    with pytest.raises(MedpairError, match="action: 'burn'"):
        Audit("a", "b", "c", action="burn")


def informed(scan: str, index: int, start: int) -> dict[str, Any]:
    said = {"kind": "cross", "id": scan, "person": scan, "slice": index, "start": start}
    return {"informed": said}


def test_an_informed_slice_that_is_handed_on_is_seen(real: Path, tmp_path: Path) -> None:
    """One pair holds its informed slice as it was, the other is a fair one."""
    image, label = brain(500)
    source = PairSet.open(real).read("t5").image
    copied = image.copy()
    copied[12] = source[11]
    pairs = [("copied", copied, label, informed("t5", 11, 12)),
             ("fair", image, label, informed("t5", 11, 12)),
             ("other", image, label, {"informed": {"kind": "generated", "start": 4}})]  # fmt: skip
    found = quick(write(tmp_path / "s", iter(pairs)).dir, real, tmp_path / "o")["informed"]
    assert found["n"] == 2
    assert found["pairs"]["copied"]["detail"] == pytest.approx(1, abs=1e-5)
    assert found["pairs"]["fair"]["detail"] < 0.9
    assert found["detail"]["largest"] == pytest.approx(1, abs=1e-5)
    assert found["detail"]["share_above"] == 0.5
    assert found["pairs"]["fair"] | {"detail": 0, "plain": 0} == {
        "scan": "t5", "slice": 11, "start": 12, "detail": 0, "plain": 0}  # fmt: skip
    generated = [("g", image, label, {"informed": {"kind": "generated", "start": 4}})]
    found = quick(write(tmp_path / "g", iter(generated)).dir, real, tmp_path / "o")
    assert found["informed"].startswith("not computed: the informed slices were generated")


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_the_config_runs_alone_on_phantoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = bundles_dir() / "segmentation_eval" / "configs" / "audit.yaml"
    words: dict[str, Any] = {"embedding::updates": 1, "rows": 1, "output_dir": str(tmp_path / "o")}
    bundle_run(config_file=str(config), logging_file=False, **words)
    report = json.loads((tmp_path / "o" / "audit.json").read_text())
    # the generated set's default phantoms are those of the others: two trained on, one kept back
    assert (report["n"], report["n_training"], report["n_held_out"]) == (3, 6, 1)
    assert {"phantom-0000", "phantom-0001"} <= set(report["copies"])


def test_the_front_door_wants_one_set_of_training_scans(tmp_path: Path) -> None:
    for words in ({}, {"real": "a", "training": "b"}):
        with pytest.raises(MedpairError, match="wanted one of them"):
            auditing.audit(tmp_path, out=tmp_path / "o", **words)
    with pytest.raises(MedpairError, match="no pair set"):
        auditing.audit(tmp_path, out=tmp_path / "o", real=tmp_path)
    assert not (tmp_path / "o").exists()
