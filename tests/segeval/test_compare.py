"""The comparison from end to end, on phantoms; what it finds needs no trained network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import medpair
from common import cli
from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from segeval.cells import Workshop, open_recipe
from segeval.compare import Comparison
from segeval.plan import divide, open_sets
from segeval.pools import Pool, open_pool

# MONAI warns whoever runs a config that it is code
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")

SIZE, SPACING = (16, 16, 16), (4.0, 4.0, 4.0)
PAPER = ["E2-1", "E2-1-equal", "E2-2", "E2-3", "E2-4", "E2-5"]
OVERLAY = {
    "sizes::unet3d": {"channels": [2, 4, 4], "strides": [1, 2], "num_res_units": 1},
    "batch_size": 1,
    "device": "cpu",
}
Make = Callable[..., PairSet]


class StoppedError(Exception):
    """Stands for a process that ends between two cells."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real phantoms (4 for training, 2 persons kept back), synthetic ones, an overlay."""
    made = tmp_path_factory.mktemp("sets")
    real = write_phantom_set(made / "real", "brain4", SIZE, 6, 0, SPACING, holdout=0.33)
    assert len(real.ids("validation")) == 2
    write_phantom_set(made / "synthetic", "brain4", SIZE, 5, 100, SPACING, holdout=0.0)
    (made / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY), encoding="utf-8")
    return made


def comparison(folder: Path, out: Path, **changes: Any) -> Comparison:
    options: dict[str, Any] = {
        "real": str(folder / "real"),
        "synthetic": [str(folder / "synthetic")],
        "strategies": PAPER,
        "seeds": [0],
        "updates": 2,
        "overlay": str(folder / "overlay.yaml"),
        "card": "none",
    }
    return Comparison(output_dir=str(out), **(options | changes))


@pytest.fixture(scope="module")
def compared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    comparison(folder, out, card="generated")()
    return out


def read(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "compare.json").read_text(encoding="utf-8")))


def arm_of(content: dict[str, Any], strategy: str, synthetic: str | None) -> dict[str, Any]:
    (found,) = [
        arm
        for arm in content["arms"]
        if (arm["strategy"], arm["synthetic"]) == (strategy, synthetic)
    ]
    return dict(found)


def test_every_strategy_is_scored_on_the_same_cases(compared: Path, folder: Path) -> None:
    content = read(compared)
    assert content["format"] == "medpair-compare-1"
    assert content["problems"] == []
    kept = set(PairSet.open(folder / "real").ids("validation"))
    assert [arm["strategy"] for arm in content["arms"]] == PAPER
    for arm in content["arms"]:
        assert set(arm["cases"]) == kept
        assert arm["synthetic"] == (None if arm["strategy"].startswith("E2-1") else "synthetic")
        assert set(arm["mean"]) == {"dice", "hd95_mm", "surface_dice"}
        assert arm["mean_over"] == ["cortex", "subcortical_gm", "white_matter", "csf"]
    hashes = [content["settings"]["real"], *content["settings"]["synthetic"]]
    assert all(len(entry["manifest_sha256"]) == 64 for entry in hashes)
    assert str(folder) not in (compared / "compare.json").read_text(encoding="utf-8")


def test_the_card_stands_beside_the_report(compared: Path) -> None:
    card = json.loads((compared / "card.json").read_text(encoding="utf-8"))
    gains = {(gain["strategy"], gain["against"]): gain for gain in card["compare"]["gains"]}
    assert set(gains) == {("E2-3", "E2-1"), ("E2-4", "E2-1-equal"), ("E2-5", "E2-1-equal")}
    differences = {(d["strategy"], d["against"]): d for d in read(compared)["differences"]}
    for pair, gain in gains.items():
        wanted = differences[pair]["measures"]["dice"]["mean"]
        assert all(gain[key] == wanted[key] for key in ("mean", "low", "high"))
    assert card["pictures"]["real_scans"] is False
    assert "card.html" in {path.name for path in compared.iterdir()}


def test_steps_see_what_the_strategy_says_for_equally_many_updates(compared: Path) -> None:
    content = read(compared)
    steps = {arm["strategy"]: arm["steps"] for arm in content["arms"]}
    pairs = {name: [step["pairs"] for step in found] for name, found in steps.items()}
    assert pairs["E2-4"] == [{"synthetic": 5}, {"real": 4}]
    assert pairs["E2-5"] == [{"real": 4, "synthetic": 5}, {"real": 4}]
    total = {name: sum(step["updates"] for step in found) for name, found in steps.items()}
    assert total == {
        "E2-1": 2,
        "E2-1-equal": 3,
        "E2-2": 2,
        "E2-3": 2,
        "E2-4": 3,
        "E2-5": 3,
    }
    assert steps["E2-4"][1]["learning_rate"] == pytest.approx(0.2 * 0.002)


def test_trainings_are_shared_between_strategies(compared: Path) -> None:
    steps = {arm["strategy"]: arm["steps"] for arm in read(compared)["arms"]}
    assert steps["E2-4"][0]["cell"] == steps["E2-2"][0]["cell"]
    assert steps["E2-5"][0]["cell"] == steps["E2-3"][0]["cell"]
    lines = (compared / "run.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert (kinds.count("training"), kinds.count("scores")) == (6, 6)
    assert len(list((compared / "cells").iterdir())) == 12
    assert not list(compared.rglob("checkpoints"))


def test_differences_are_those_of_the_means(compared: Path) -> None:
    content = read(compared)
    listed = [(d["strategy"], d["against"]) for d in content["differences"]]
    assert ("E2-4", "E2-1-equal") in listed
    assert ("E2-1-equal", "E2-1") in listed
    for entry in content["differences"]:
        own = arm_of(content, entry["strategy"], entry["synthetic"])
        other = arm_of(content, entry["against"], None)
        found = entry["measures"]["dice"]["labels"]["cortex"]
        wanted = own["labels"]["cortex"]["dice"] - other["labels"]["cortex"]["dice"]
        assert found["mean"] == pytest.approx(wanted)
        assert found["low"] <= found["mean"] <= found["high"]
        assert found["p"] == found["q"] == "not computed: N=2 persons, wanted at least 6"


def test_the_table_says_what_there_is_and_what_to_mind(compared: Path) -> None:
    text = (compared / "compare.md").read_text(encoding="utf-8")
    assert "| unet3d | E2-4 | synthetic | 5 synthetic → 4 real | 2 + 1 |" in text
    assert "2 scans of 2 persons" in text
    assert "2 test persons are few" in text
    assert "whether its generator saw any of the 2 test persons is not known" in text


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let the fourth training end without finishing."""
    train, count = Workshop.train, [0]

    def stop(self: Workshop, cell: Any, recipe: Any) -> Path:
        count[0] += 1
        if count[0] == 4:
            raise StoppedError
        return train(self, cell, recipe)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workshop, "train", stop)
        yield patch


def test_started_again_it_goes_on_and_ends_with_the_same_bytes(
    compared: Path, folder: Path, tmp_path: Path, stopping: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        comparison(folder, tmp_path)()
    stopping.undo()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.pt")}
    assert len(before) == 3
    comparison(folder, tmp_path)()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    for name in ("compare.json", "compare.md"):
        assert (tmp_path / name).read_bytes() == (compared / name).read_bytes()


def test_damaged_weights_of_a_cell_are_made_again(
    compared: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    cell = read(out)["arms"][0]["steps"][0]["cell"]
    (out / "cells" / cell / "model.pt").write_bytes(b"broken")
    comparison(folder, out)()
    assert (out / "compare.json").read_bytes() == (compared / "compare.json").read_bytes()
    weights = [base / "cells" / cell / "model.pt" for base in (out, compared)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def pool(folder: Path, name: str = "real") -> Pool:
    return open_pool(name, folder / name)


def test_all_that_decides_a_training_is_in_its_name(folder: Path) -> None:
    real, made = pool(folder), pool(folder, "synthetic")
    schema = real.pairset.schema

    def key(**changes: Any) -> str:
        words: dict[str, Any] = {"data": [(real, real.items)], "updates": 2, "factor": 1.0}
        words |= {"seed": 0, "initial": None, "overlay": OVERLAY, "architecture": "unet3d"}
        words |= changes
        recipe = open_recipe(words.pop("architecture"), "tiny", words.pop("overlay"), schema)
        return recipe.cell(**words).key

    first = open_recipe("unet3d", "tiny", OVERLAY, schema).cell([(made, made.items)], 1, 1, 0, None)
    others = [
        key(),
        key(data=[(real, real.items[1:])]),
        key(data=[(made, made.items)]),
        key(data=[(real, real.items), (made, made.items)]),
        key(updates=3),
        key(factor=0.2),
        key(seed=1),
        key(initial=first),
        key(overlay=OVERLAY | {"batch_size": 2}),
        key(overlay=OVERLAY | {"sizes::unet3d::channels": [2, 6, 4]}),
        key(architecture="unet2d"),
    ]
    assert len(set(others)) == len(others)
    assert key() == key() == key(overlay=OVERLAY | {"sizes::unetr::img_size": [16, 16, 16]})


def rewritten(source: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a pair set and change the lines of its manifest."""
    shutil.copytree(source, out)
    path = out / "manifest.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return out


def test_persons_of_the_test_set_are_refused_in_training(folder: Path, tmp_path: Path) -> None:
    person = PairSet.open(folder / "real").ids("validation")[0]

    def mask_of_person(record: dict[str, Any]) -> None:
        if record["id"].endswith("3"):
            record |= {"person": person, "source": {"mask": person, "person": person}}

    def slice_of_person(record: dict[str, Any]) -> None:
        if record["id"].endswith("3"):
            record["informed"] = {"id": "x", "person": person}

    for number, change in enumerate((mask_of_person, slice_of_person)):
        made = rewritten(folder / "synthetic", tmp_path / f"made{number}", change)
        with pytest.raises(MedpairError, match=rf"1 test persons are in training \({person}\)"):
            comparison(folder, tmp_path / "out", synthetic=[str(made)], strategies=["E2-2"])()
    assert not (tmp_path / "out").exists()


def test_folds_leave_out_all_that_shows_a_test_person(folder: Path, tmp_path: Path) -> None:
    """Pairs made from real masks: each fold drops those of its test persons, and marks them."""
    scans = PairSet.open(folder / "real").ids()
    masks = {f"phantom-{100 + n:04d}": name for n, name in enumerate(scans[:5])}

    def from_masks(record: dict[str, Any]) -> None:
        mask = masks[record["id"]]
        record |= {"person": mask, "source": {"mask": mask, "person": mask}}

    made = rewritten(folder / "synthetic", tmp_path / "made", from_masks)
    words = {"synthetic": [f"resampled={made}"], "strategies": ["E2-3"], "folds": 2, "updates": 1}
    content = comparison(folder, tmp_path / "out", **words)()
    (arm,) = content["arms"]
    assert arm["n_cases"] == arm["n_persons"] == 6
    marks = {name: case["generator_saw"] for name, case in arm["cases"].items()}
    assert marks == {name: True if name in scans[:5] else "not known" for name in scans}
    cells = [json.loads(p.read_text()) for p in (tmp_path / "out").rglob("parts.json")]
    assert len(cells) == 2
    for real, synthetic in cells:
        assert len(real["ids"]) == 3
        assert {masks[name] for name in synthetic["ids"]} <= set(real["ids"])
    assert "its generator saw 5 of the 6 test persons" in (tmp_path / "out/compare.md").read_text()


def test_the_generators_training_set_marks_persons(folder: Path, tmp_path: Path) -> None:
    words = {"strategies": ["E2-1", "E2-2"], "updates": 1}
    seen = write_phantom_set(tmp_path / "seen", "brain4", SIZE, 1, 0, SPACING, holdout=0.0)
    kept = PairSet.open(folder / "real").ids("validation")

    def one_of_them(record: dict[str, Any]) -> None:
        record["person"] = kept[0]

    rewritten(seen.dir, tmp_path / "changed", one_of_them)
    words["generator_training"] = str(tmp_path / "changed")
    content = comparison(folder, tmp_path / "out", **words)()
    cases = arm_of(content, "E2-2", "synthetic")["cases"]
    assert {name: case["generator_saw"] for name, case in cases.items()} == {
        kept[0]: True,
        kept[1]: False,
    }
    (difference,) = [d for d in content["differences"] if d["against"] == "E2-1"]
    assert difference["n_persons"] == 2
    assert difference["unseen"]["n_persons"] == 1
    (missing,) = [d for d in content["differences"] if d["against"] == "E2-1-equal"]
    assert missing["measures"] == "not computed: E2-1-equal was not run"


def test_too_few_pairs_are_said_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    words = {"strategies": ["E2-1", "ratio-4x", "low-5-real"], "updates": 1}
    content = comparison(folder, tmp_path, **words)()
    results = {arm["strategy"]: arm.get("result") for arm in content["arms"]}
    assert results == {
        "E2-1": None,
        "ratio-4x": "not computed: 4 times 4 real pairs are 16, the synthetic set holds 5",
        "low-5-real": "not computed: 5 persons wanted, there are 4",
    }
    assert "4 times 4 real pairs are 16" in (tmp_path / "compare.md").read_text(encoding="utf-8")


def test_transfer_goes_on_to_the_target_and_is_tested_there(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    write_phantom_set(target, "brain4", SIZE, 4, 200, SPACING, holdout=0.5)
    words = {"target": str(target), "strategies": ["E3-1", "E3-3"], "updates": 1}
    content = comparison(folder, tmp_path / "out", **words)()
    steps = arm_of(content, "E3-3", "synthetic")["steps"]
    assert [step["pairs"] for step in steps] == [{"synthetic": 5}, {"real": 4}, {"target": 2}]
    assert set(content["arms"][0]["cases"]) == set(PairSet.open(target).ids("validation"))
    assert content["settings"]["test"] == content["settings"]["target"]


def test_a_test_set_is_used_whole_unless_it_is_trained_on(folder: Path, tmp_path: Path) -> None:
    write_phantom_set(tmp_path / "test", "brain4", SIZE, 3, 300, SPACING, holdout=0.34)
    real, made = str(folder / "real"), [str(folder / "synthetic")]
    kept = PairSet.open(real).ids("validation")
    for test, cases in ((None, kept), (real, kept), (str(tmp_path / "test"), None)):
        sets = open_sets(real, made, test=test)
        (division,) = divide(sets, None)
        wanted = PairSet.open(tmp_path / "test").ids() if cases is None else cases
        assert tuple(item.id for item in division.cases) == wanted
        assert {i.split for i in division.training(sets.real, real=True)} == {"training"}
    no_validation = write_phantom_set(tmp_path / "all", "brain4", SIZE, 2, 0, SPACING, holdout=0.0)
    with pytest.raises(MedpairError, match="no pair in split validation to test on; give --test"):
        divide(open_sets(str(no_validation.dir), []), None)


def run(words: list[str]) -> int:
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert isinstance(done.value.code, int)
    return done.value.code


def words_for(folder: Path, made: Path, out: Path) -> list[str]:
    options = {"real": folder / "real", "synthetic": f"new={made}", "strategies": "E2-2"}
    options |= {"seeds": "3", "updates": 1, "overlay": folder / "overlay.yaml", "out": out}
    return ["compare", *(str(w) for key, value in options.items() for w in (f"--{key}", value))]


def test_a_damaged_pair_is_named_and_the_others_go_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    shutil.copytree(folder / "synthetic", made)
    content = (made / "images" / "phantom-0102.nii.gz").read_bytes()
    (made / "images" / "phantom-0102.nii.gz").write_bytes(content[:500])
    (made / "labels" / "phantom-0104.nii.gz").unlink()
    assert run(words_for(folder, made, tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert "new: pair phantom-0102 is left out" in said
    assert "new: pair phantom-0104 is left out" in said
    found = read(tmp_path / "out")
    assert len(found["problems"]) == 2
    assert arm_of(found, "E2-2", "new")["steps"][0]["pairs"] == {"synthetic": 3}


@pytest.mark.parametrize(
    ("schema", "spacing", "message"),
    [
        ("thorax7", SPACING, "schema thorax7"),
        ("brain4", (4.0, 4.0, 2.0), "spacing 4x4x2 mm, wanted 4x4x4 mm"),
    ],
)
def test_sets_that_do_not_fit_together_are_refused_in_one_line(
    schema: str,
    spacing: tuple[float, ...],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_phantom_set(tmp_path / "made", schema, SIZE, 2, 100, spacing, holdout=0.0)
    assert run(words_for(folder, tmp_path / "made", tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ["resnet"]}, r"--networks: 'resnet', wanted some of unet3d"),
        ({"seeds": [1, 1]}, r"--seeds: \[1, 1\], wanted different numbers"),
        ({"seeds": []}, r"--seeds: \[\], wanted different numbers"),
        ({"updates": 0}, r"--updates: 0, wanted >= 1"),
        ({"synthetic": []}, r"--synthetic: none, wanted one for E2-2"),
        ({"strategies": ["E3-1"]}, r"--target: none, wanted one for E3-1"),
        ({"folds": 2, "test": "x"}, r"--folds: tests on --real itself"),
        ({"folds": 7}, r"--folds: 7, wanted 2\.\.6"),
        ({"preset": "huge"}, r"--preset: 'huge' is unknown; choose base, small, tiny"),
        ({"overlay": "/no/file.yaml"}, r"--overlay: /no/file\.yaml: no YAML mapping"),
        ({"real": "/no/set"}, r"/no/set: no pair set"),
        ({"test": "/no/set"}, r"/no/set: no pair set"),
    ],
)
def test_a_wrong_use_is_named(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedpairError, match=message) as error:
        comparison(folder, tmp_path / "out", **changes)()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_sets_of_one_name_and_unknown_keys_are_refused(folder: Path, tmp_path: Path) -> None:
    twice = [str(folder / "synthetic"), f"synthetic={folder / 'real'}"]
    with pytest.raises(MedpairError, match="--synthetic: 'synthetic' is given twice; name one"):
        comparison(folder, tmp_path, synthetic=twice)()
    (tmp_path / "o.yaml").write_text("bach_size: 3", encoding="utf-8")
    with pytest.raises(MedpairError, match=r"overlay: train\.yaml has no key 'bach_size'"):
        comparison(folder, tmp_path, overlay=str(tmp_path / "o.yaml"))()


def test_the_python_face_opens_the_config(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Comparison] = []
    monkeypatch.setattr(Comparison, "__call__", lambda self, progress=None: seen.append(self))
    sets = {"a": folder / "synthetic"}
    out = medpair.compare(real=folder / "real", synthetic=sets, out=tmp_path, seeds=[4], folds=2)
    assert out == tmp_path
    (found,) = seen
    assert list(found.synthetic) == [f"a={folder / 'synthetic'}"]
    assert (found.real, list(found.seeds), found.folds) == (str(folder / "real"), [4], 2)
    assert list(found.strategies) == PAPER
    assert found.preset == "tiny"
