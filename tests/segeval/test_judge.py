"""The judge of phantom sets: what is in its report, and what bad input does to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import cli
from common.bundles import bundles_dir
from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.phantom import make_phantom, write_phantom_set
from common.errors import MedpairError
from segeval.judge import Judge
from segeval.judge_parts import NAMES
from segeval.judged import read_judged

# MONAI warns whoever runs a config that it is code
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")

SIZE, MM = (16, 16, 16), (4.0, 4.0, 4.0)
Change = Callable[[Pair], Pair]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine phantoms; some of them kept back."""
    folder = tmp_path_factory.mktemp("real") / "set"
    write_phantom_set(folder, "brain4", SIZE, 9, spacing=MM, holdout=0.4)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantoms, two of them kept back."""
    folder = tmp_path_factory.mktemp("few") / "set"
    write_phantom_set(folder, "brain4", SIZE, 4, spacing=MM, holdout=0.5)
    return folder


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    write_phantom_set(folder, "brain4", SIZE, 5, seed=100, spacing=MM)
    return folder


def written(
    folder: Path,
    count: int,
    change: Change = lambda pair: pair,
    *,
    size: tuple[int, int, int] = SIZE,
    spacing: tuple[float, float, float] = MM,
    schema: str = "brain4",
    **record: Any,
) -> Path:
    """Write changed phantoms of seeds that no other set has."""
    pairs = PairSet.create(folder, load_schema(schema), spacing, size, {"method": "none"})
    for seed in range(500, 500 + count):
        image, label = make_phantom(schema, size, seed)
        pairs.write(change(Pair(str(seed), image, label, np.diag([4.0, 4, 4, 1]))), record)
    return folder


def quick(real: Path, synthetic: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Judge without the segmenter, with few repeats."""
    settings = {"segmenter": None, "repeats": 2, "pairs": 4, "card": "none"} | options
    return Judge(str(real), str(synthetic), str(out), **settings)()


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(value)
    else:
        yield tree


def numbers(tree: Any) -> list[float]:
    return [v for v in leaves(tree) if isinstance(v, float)]


@pytest.fixture(scope="module")
def report(real: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out")
    made = Judge(str(real), str(synthetic), str(out), repeats=3, pairs=6)()
    assert json.loads((out / "judge.json").read_text()) == json.loads(json.dumps(made))
    card = json.loads((out / "card.json").read_text())
    assert card["judge"]["alignment"] == made["alignment"]
    assert card["pictures"]["real_scans"] is True
    return made


def test_the_report_says_what_was_judged(report: dict[str, Any]) -> None:
    assert list(report) == ["format", "settings", "problems", "n", *NAMES]
    assert (report["format"], report["problems"]) == ("medpair-judge-1", [])
    n = report["n"]
    assert (n["synthetic"], n["training"] + n["kept_back"]) == (5, 9)
    assert n["kept_back_persons"] == n["kept_back"] >= 2
    settings = report["settings"]
    assert len(settings["sets"]["real"]["manifest_sha256"]) == 64
    assert settings["segmenter"]["bundle"] == "segmentation_eval"
    assert (settings["ms_ssim"]["kernel"], settings["ms_ssim"]["scales"]) == (5, 2)
    assert settings["precision_recall"]["k"] == 3


def test_fidelity_has_a_floor_and_n_for_every_distance(report: dict[str, Any]) -> None:
    fidelity = report["fidelity"]
    assert list(fidelity) == [
        *("encoder", "radiomics", "radimagenet", "inception", "medicalnet", "voxels")
    ]
    for name in ("radimagenet", "inception", "medicalnet"):
        assert fidelity[name] == f"not computed: no weights of {name} are given"
    for name in ("encoder", "radiomics"):
        found = fidelity[name]
        assert (found["floor"], found["n_generated"]) == ("two real sets", 5)
        assert found["n_compared"] == min(5, report["n"]["kept_back"])
        assert list(found["views"]) == ["A", "C", "S"]
        for view in (*found["views"].values(), found["mean"]):
            assert view["fid"]["distance"] > 0
            assert view["fid"]["floor"] > 0
            assert isinstance(view["kid"]["distance"], float)
            assert isinstance(view["mmd"]["floor"], float)
            for share in ("precision", "recall"):
                assert 0 <= view[share]["share"] <= 1
                assert 0 <= view[share]["floor"] <= 1
        assert all(view["slices"] > 0 for view in found["views"].values())
    assert isinstance(fidelity["voxels"]["floor"], float)


def test_the_other_parts_stand_beside_real_scans(report: dict[str, Any]) -> None:
    alike = report["diversity"]["ms_ssim"]
    assert 0 < alike["pairwise"] < 1
    assert alike["ratio"] == pytest.approx(1, abs=0.1)
    assert report["diversity"]["lpips"].startswith("not computed: no AlexNet weights")
    aligned = report["alignment"]
    assert set(aligned["mean"]) == {
        *("dice", "real_dice", "ratio", "hd95_mm", "real_hd95_mm", "hd95_ratio")
    }
    assert aligned["n_real"] == report["n"]["kept_back"]
    assert 0.5 < aligned["mean"]["ratio"] < 1.5
    ranges = report["intensity"]["range"]
    assert 0 <= ranges["all_inside"] <= 1
    assert ranges["labels"]["cortex"]["low"] < ranges["labels"]["cortex"]["high"]
    assert report["consistency"]["relative"]["D"]["slice_noise"] == pytest.approx(1, abs=0.4)
    assert len(report["consistency"]["profiles"]["real"]["D"]["steps"]) > 8
    assert report["consistency"]["seams"]["seam_index"].endswith("no window joints are known")
    assert report["detail_ratio"] == pytest.approx(1, abs=0.3)
    masks = report["masks"]
    assert masks["novelty"]["n_training"] == report["n"]["training"]
    assert isinstance(masks["realism"]["ratio"]["volume_mm3"], float)
    assert masks["anatomy"]["n"] == 5
    assert report["paired"].startswith("not computed: there are no real scans of these masks")


def test_equal_seeds_give_equal_reports(few: Path, synthetic: Path, tmp_path: Path) -> None:
    first, second = (quick(few, synthetic, tmp_path / name) for name in "ab")
    assert first == second
    assert (
        first["alignment"] == first["fidelity"]["encoder"] == "not computed: no segmenter is given"
    )


def test_kept_back_scans_judged_as_generated_ones_lie_at_the_floor(
    few: Path, tmp_path: Path
) -> None:
    source = PairSet.open(few)
    pairs = PairSet.create(tmp_path / "s", source.schema, MM, SIZE, {"method": "none"})
    for identity in source.ids("validation"):
        pairs.write(source.read(identity), {"person": source.person(identity)})
    found = quick(few, tmp_path / "s", tmp_path, segmenter="segmentation_eval")
    for name in ("encoder", "radiomics"):
        assert found["fidelity"][name]["floor"] == "two real sets"
        mean = found["fidelity"][name]["mean"]
        assert mean["fid"]["ratio"] == pytest.approx(1)
        for unbiased in ("kid", "mmd"):
            assert mean[unbiased]["distance"] == pytest.approx(mean[unbiased]["floor"])
    voxels = found["fidelity"]["voxels"]
    assert voxels["distance"] == pytest.approx(voxels["floor"])
    assert found["alignment"]["mean"]["ratio"] == pytest.approx(1)
    assert found["intensity"]["range"]["all_inside"] == 1
    assert "PSNR is infinite" in found["paired"]["fidelity"]["mean"]["3D"]["psnr"]
    assert found["paired"]["fidelity"]["mean"]["3D"]["ms_ssim"] == pytest.approx(1)


def test_images_of_real_masks_are_compared_with_their_scans(real: Path, tmp_path: Path) -> None:
    source = PairSet.open(real)
    pairs = PairSet.create(tmp_path / "s", source.schema, MM, SIZE, {"method": "none"})
    rng = np.random.default_rng(0)
    for identity in source.ids()[:3]:
        pair = source.read(identity)
        noisy = np.clip(pair.image, 0.1, 0.9) + rng.choice([-0.05, 0.05], SIZE)
        record = {"person": "somebody", "joints": [8]}
        pairs.write(Pair(identity, noisy.astype(np.float32), pair.label, pair.affine), record)
    found = quick(real, tmp_path / "s", tmp_path)
    assert found["paired"]["fidelity"]["n"] == 3
    psnr = found["paired"]["fidelity"]["mean"]["3D"]["psnr"]
    assert 15 < psnr < 26.1  # of noise of 0.05 alone
    assert set(found["paired"]["lpips"].values()) == {
        "not computed: no AlexNet weights are given for LPIPS"
    }
    assert found["consistency"]["seams"]["n"] == 3
    # the masks give their persons away, who are in the training set, too
    assert found["fidelity"]["radiomics"]["floor"] == "random halves of the real persons"
    judged = read_judged(real, tmp_path / "s")
    assert judged.synthetic is not None
    assert judged.synthetic.persons == [source.person(i) for i in source.ids()[:3]]


def test_damaged_files_are_named_and_the_others_judged(
    real: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {n: shutil.copytree(f, tmp_path / n) for n, f in (("r", real), ("s", synthetic))}
    for name, kind in (("r", 1), ("s", 0)):
        pairs = PairSet.open(sets[name])
        path = pairs.paths(pairs.ids()[0])[kind]
        path.write_bytes(path.read_bytes()[:-40])
    words = ["--real", str(sets["r"]), "--synthetic", str(sets["s"]), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as done:
        cli.main(["judge", *words])
    assert done.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 2
    assert "real: pair phantom-0000 is left out" in errors[0]
    assert "synthetic: pair phantom-0100 is left out" in errors[1]
    found = json.loads((tmp_path / "o" / "judge.json").read_text())
    assert [f"error: {line}" for line in found["problems"]] == errors
    assert (found["n"]["synthetic"], found["n"]["training"] + found["n"]["kept_back"]) == (4, 8)
    assert found["fidelity"]["encoder"]["n_generated"] == 4
    for identity in PairSet.open(sets["s"]).ids():
        PairSet.open(sets["s"]).paths(identity)[1].write_bytes(b"")
    nothing = quick(real, sets["s"], tmp_path / "p")
    assert len(nothing["problems"]) == 5
    assert {nothing[name] for name in NAMES} == {"not computed: N=0 synthetic pairs can be read"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "abdomen4"}, "schema abdomen4"),
        ({"spacing": (4.0, 4.0, 2.0)}, "spacing 4x4x2 mm, wanted 4x4x4 mm"),
        ({"count": 0}, "no pair, wanted at least one"),
    ],
)
def test_sets_that_do_not_fit_are_refused_in_one_line(
    changes: dict[str, Any],
    message: str,
    real: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = written(tmp_path / "s", **({"count": 1} | changes))
    words = ["--real", str(real), "--synthetic", str(folder), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as done:
        cli.main(["judge", *words])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "o").exists()


def test_a_person_in_both_real_splits_is_refused(synthetic: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "r", 2, person="one")
    pairs = PairSet.open(folder)
    image, label = make_phantom("brain4", SIZE, 7)
    kept = Pair("kept", image, label, np.diag([4.0, 4, 4, 1]))
    pairs.write(kept, {"person": "one", "split": "validation"})
    with pytest.raises(MedpairError, match="1 persons are in training and in validation"):
        quick(folder, synthetic, tmp_path)


def flat(pair: Pair) -> Pair:
    return Pair(pair.id, np.full_like(pair.image, 0.5), pair.label, pair.affine)


def bare(pair: Pair) -> Pair:
    return Pair(pair.id, pair.image, np.zeros_like(pair.label), pair.affine)


@pytest.mark.parametrize("change", [flat, bare, lambda p: bare(flat(p))], ids=["flat", "bare", "0"])
def test_constant_images_and_empty_masks_give_numbers_or_reasons(
    change: Change, few: Path, tmp_path: Path
) -> None:
    folder = written(tmp_path / "s", 3, change)
    found = quick(few, folder, tmp_path, segmenter="segmentation_eval")
    assert np.isfinite(numbers(found)).all()
    alike = found["diversity"]["ms_ssim"]["pairwise"]
    assert alike == pytest.approx(1) if change is not bare else alike < 1
    distance = found["fidelity"]["radiomics"]["mean"]["fid"]["distance"]
    assert isinstance(distance, float if change is flat else str)
    if change is not flat:
        assert found["alignment"]["mean"]["dice"] == 0 or isinstance(
            found["alignment"]["mean"]["dice"], str
        )
    written(tmp_path / "r", 4, change)
    reversed_ = quick(tmp_path / "r", folder, tmp_path)
    assert np.isfinite(numbers(reversed_)).all()


def test_one_pair_of_another_depth_gives_reasons(few: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "s", 1, size=(20, 16, 16))
    found = quick(few, folder, tmp_path)
    radiomics = found["fidelity"]["radiomics"]["mean"]
    assert radiomics["fid"]["distance"].startswith("not computed: N=")
    assert found["diversity"]["ms_ssim"]["pairwise"] == (
        "not computed: N=1 persons; at least 2 wanted"
    )
    assert "one shape wanted" in found["fidelity"]["voxels"]
    assert "one shape wanted" in found["masks"]["novelty"]
    assert isinstance(found["masks"]["realism"]["statistics"]["csf.volume_mm3"]["distance"], float)


def test_real_scans_without_kept_back_ones_are_halved(synthetic: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "r", 4)
    found = quick(folder, synthetic, tmp_path, segmenter="segmentation_eval")
    assert found["fidelity"]["radiomics"]["floor"] == "random halves of the real persons"
    assert found["alignment"].startswith("not computed: N=0 kept-back real scans")
    alone = quick(written(tmp_path / "one", 1), synthetic, tmp_path)
    assert "at least 2 persons" in alone["fidelity"]["radiomics"]["mean"]["fid"]["distance"]


def test_a_segmenter_of_other_pairs_does_not_judge_these(tmp_path: Path) -> None:
    mm = written(tmp_path / "mm", 3, spacing=(2.0, 2.0, 2.0))
    found = quick(mm, mm, tmp_path, segmenter="segmentation_eval")
    assert "trained at 4x4x4 mm, the pairs have 2x2x2 mm" in found["alignment"]
    abdomen = written(tmp_path / "abdomen", 4, schema="abdomen4")
    found = quick(abdomen, abdomen, tmp_path, segmenter="segmentation_eval")
    assert found["alignment"] == found["fidelity"]["encoder"]
    assert "for schema brain4, the pairs are of abdomen4" in found["alignment"]
    assert isinstance(found["fidelity"]["radiomics"]["mean"]["fid"]["distance"], float)


def test_values_outside_their_range_are_refused(
    real: Path, synthetic: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedpairError, match="wanted at least 1 of each"):
        quick(real, synthetic, tmp_path, repeats=0)
    with pytest.raises(MedpairError, match="card: 'some', wanted all, generated, none"):
        quick(real, synthetic, tmp_path, card="some")
    with pytest.raises(MedpairError, match="--synthetic: none"):
        Judge(str(real), "", str(tmp_path))()
    with pytest.raises(MedpairError, match="no weights for preset 'small'"):
        quick(real, synthetic, tmp_path, segmenter="segmentation_eval", preset="small")
    with pytest.raises(MedpairError, match="'dino' is unknown"):
        quick(real, synthetic, tmp_path, backbones={"dino": {"weights": "x"}})
    assert not (tmp_path / "judge.json").exists()


def test_the_config_names_what_the_judge_takes() -> None:
    text = (bundles_dir() / "segmentation_eval" / "configs" / "judge.yaml").read_text()
    for key in Judge.__dataclass_fields__:
        assert f'  {key}: "@{key}"' in text
