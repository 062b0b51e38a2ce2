import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from common.data import datasets
from common.data.datasets import PairSet, load_arrays
from common.data.labels import load_schema
from common.data.prepare import prepare
from common.errors import MedpairError
from common.io.atomic import write_bytes
from tests.common.data.scans import SIZE, raw_pair, save, write_scans


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "run.jsonl"
    }


def run(folder: Path, out: Path, **options: Any) -> PairSet:
    return prepare(folder, folder, options.pop("schema", "brain4"), out, **options)


def test_voxels_are_the_scans_voxels(tmp_path: Path) -> None:
    """Without resampling the pair holds the same numbers, normalised, in D, H, W."""
    pairset = run(write_scans(tmp_path / "in", 1), tmp_path / "out", size=SIZE)
    pair, record = pairset.read("0"), pairset.record("0")
    image, label = raw_pair()
    lower, upper = record["intensity"]["lower"], record["intensity"]["upper"]
    assert lower == np.percentile(image, 0.5)
    assert upper == np.percentile(image[image > 0], 99.5)
    want = (image.transpose(1, 2, 0) - lower) / (upper - lower)
    np.testing.assert_allclose(pair.image, want, atol=1e-6)
    np.testing.assert_array_equal(pair.label, label.transpose(1, 2, 0))
    assert record["voxels"]["cortex"] == int((label == 1).sum())
    np.testing.assert_allclose(pair.affine, np.diag([2.0, 2, 2, 1]))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
def test_file_formats_give_the_same_pairs(tmp_path: Path, suffix: str) -> None:
    want = run(write_scans(tmp_path / "a", 1), tmp_path / "x", size=SIZE).read("0")
    have = run(write_scans(tmp_path / "b", 1, suffix=suffix), tmp_path / "y", size=SIZE).read("0")
    np.testing.assert_array_equal(have.image, want.image)
    np.testing.assert_array_equal(have.label, want.label)


def test_spacing_size_and_crop(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in")
    pairset = run(scans, tmp_path / "out", spacing=4, size=(12, 10, 11), crop="nonzero")
    assert (pairset.spacing, pairset.size) == ((4.0, 4.0, 4.0), (12, 10, 11))
    for identity in pairset.ids():
        pair = pairset.read(identity)
        np.testing.assert_allclose(np.linalg.norm(pair.affine[:3, :3], axis=0), 4)
        spans = [np.flatnonzero(pair.label.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
        for span, n in zip(spans, (12, 10, 11), strict=True):
            assert abs((span[0] + span[-1]) / 2 - (n - 1) / 2) <= 1
    tight = run(scans, tmp_path / "tight", crop="nonzero")
    assert tight.size is None
    assert tight.spacing == (2.0, 2.0, 2.0)
    assert tight.read("0").label[0].any()
    assert tight.read("0").label[-1].any()


def test_anisotropic_spacing_is_in_dhw(tmp_path: Path) -> None:
    pairset = run(write_scans(tmp_path / "in", 1), tmp_path / "out", spacing=(6, 2, 3))
    widths = np.linalg.norm(pairset.read("0").affine[:3, :3], axis=0)
    np.testing.assert_allclose(widths, [3, 6, 2])  # R, A, S for slices along A


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 3)
    first, second = (run(scans, tmp_path / n, spacing=3, size=(14, 12, 14)).dir for n in "ab")
    assert files(first) == files(second)


def test_interrupted_and_continued_gives_equal_bytes(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 3)
    whole = run(scans, tmp_path / "whole", spacing=3).dir

    def stop(task: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scans, tmp_path / "parts", spacing=3, progress=stop)
    assert PairSet.open(tmp_path / "parts").ids() == ("0", "1")
    before = (tmp_path / "parts" / "images" / "0.nii.gz").stat().st_mtime_ns
    run(scans, tmp_path / "parts", spacing=3)
    assert (tmp_path / "parts" / "images" / "0.nii.gz").stat().st_mtime_ns == before
    assert files(tmp_path / "parts") == files(whole)


def test_a_crash_inside_a_pair_leaves_it_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail at every single write in turn; what stands there is whole, and a rerun completes it."""
    scans = write_scans(tmp_path / "in", 2)
    whole = files(run(scans, tmp_path / "whole").dir)
    for failing in range(7):
        out = tmp_path / f"out{failing}"
        writes = 0

        def count_and_fail(path: Path, data: bytes, at: int = failing) -> None:
            nonlocal writes
            writes += 1
            if writes == at + 1:
                raise OSError("disk full")
            write_bytes(path, data)

        with monkeypatch.context() as patch:
            patch.setattr("common.io.nifti.write_bytes", count_and_fail)
            patch.setattr("common.io.atomic.write_bytes", count_and_fail)
            with pytest.raises(OSError, match="disk full"):
                run(scans, out)
        left = files(out) if out.exists() else {}
        assert all(whole[n] == c for n, c in left.items() if n.endswith(".gz"))
        if "dataset.json" in left:
            for identity in PairSet.open(out).ids():
                PairSet.open(out).read(identity)
        assert files(run(scans, out).dir) == whole


@pytest.mark.parametrize(("failing", "left"), [("0", []), ("1", ["0"])])
def test_a_full_disk_leaves_no_half_of_a_pair(
    failing: str, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = write_scans(tmp_path / "in", 2)
    kept = datasets.write_volume

    def full(path: Path, *words: Any) -> None:
        if path.parent.name == "labels" and path.name.startswith(failing):
            raise OSError(28, "No space left on device", str(path))
        kept(path, *words)

    monkeypatch.setattr(datasets, "write_volume", full)
    with pytest.raises(OSError, match="No space left"):
        run(scans, tmp_path / "set")
    images = sorted(p.name.split(".")[0] for p in (tmp_path / "set").glob("images/*"))
    assert images == left
    assert (tmp_path / "set").exists() == bool(left)


def test_a_changed_scan_is_prepared_again(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 2)
    first = files(run(scans, tmp_path / "out").dir)
    save(scans / "1_T1.nii.gz", raw_pair(seed=5)[0], np.diag([2.0, 2, 2, 1]))
    second = files(run(scans, tmp_path / "out").dir)
    assert first["images/0.nii.gz"] == second["images/0.nii.gz"]
    assert first["images/1.nii.gz"] != second["images/1.nii.gz"]


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"spacing": 3}, r"with spacing \[2.0, 2.0, 2.0\], wanted \[3.0, 3.0, 3.0\]"),
        ({"size": (10, 10, 10)}, r"size None, wanted \[10, 10, 10\]"),
        ({"crop": "nonzero"}, "prepare"),
        ({"schema": "brats3", "source": "schema"}, "brats3"),
    ],
)
def test_another_pair_set_is_not_mixed_in(
    tmp_path: Path, options: dict[str, Any], pattern: str
) -> None:
    scans = write_scans(tmp_path / "in", 1)
    before = files(run(scans, tmp_path / "out").dir)
    with pytest.raises(MedpairError, match=f"{pattern}.*choose another folder"):
        run(scans, tmp_path / "out", **options)
    assert files(tmp_path / "out") == before


def test_a_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 1)
    before = files(scans)
    with pytest.raises(MedpairError, match="is no pair set"):
        run(scans, scans)
    assert files(scans) == before


def test_persons_decide_the_split_and_monai_reads_it(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 3)
    (tmp_path / "p.csv").write_text("id,person\n0,A\n1,B\n2,A\n")
    pairset = run(scans, tmp_path / "out", persons=tmp_path / "p.csv", holdout=0.5)
    sides = {
        split: {pairset.person(i) for i in pairset.ids(split)}
        for split in ("training", "validation")
    }
    assert sorted(map(sorted, sides.values())) == [["A"], ["B"]]
    for split in sides:
        items = load_decathlon_datalist(str(pairset.dir / "dataset.json"), data_list_key=split)
        assert [i["id"] for i in items] == list(pairset.ids(split))
        assert all(Path(i["image"]).is_file() and Path(i["label"]).is_file() for i in items)
        arrays = load_arrays(pairset.dir, split)
        assert arrays.ids == pairset.ids(split)
        assert arrays.images[0].shape == (22, 18, 20)


def test_progress_counts_every_pair(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    run(write_scans(tmp_path / "in", 2), tmp_path / "o", progress=lambda *a: seen.append(a))
    assert seen == [("prepare", 0, 2), ("prepare", 1, 2), ("prepare", 2, 2)]


def test_source_ids_are_translated(tmp_path: Path) -> None:
    image, label = raw_pair()
    ids = np.array([0, 100, 59, 44, 51, 0], np.int16)[label]
    save(tmp_path / "in" / "a_T1.nii", image)
    save(tmp_path / "in" / "a_seg.nii", ids)
    for source in (None, "neuromorphometrics"):
        pairset = run(tmp_path / "in", tmp_path / f"out-{source}", source=source)
        np.testing.assert_array_equal(pairset.read("a").label > 0, label.transpose(1, 2, 0) > 0)
        for identity in (1, 2, 3, 4):
            same = (pairset.read("a").label == identity) == (label == identity).transpose(1, 2, 0)
            assert same.all()


def test_two_readings_are_not_guessed(tmp_path: Path) -> None:
    image, _ = raw_pair("brats3")
    label = np.zeros(image.shape, np.uint8)
    label[5:8], label[8:10] = 1, 4
    scans = save(tmp_path / "in" / "a_T1.nii", image).parent
    save(scans / "a_seg.nii", label)
    with pytest.raises(MedpairError, match=r"fit schema and brats2017.*say which with source"):
        run(scans, tmp_path / "out", schema="brats3")
    pairset = run(scans, tmp_path / "out", schema="brats3", source="brats2017")
    assert pairset.record("a")["voxels"]["enhancing"] == int((label == 4).sum())


def test_ct_uses_its_window(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 1, schema_name="thorax7")
    pairset = run(scans, tmp_path / "out", schema="thorax7", source="schema")
    pair = pairset.read("0")
    raw = raw_pair("thorax7")[0].transpose(2, 1, 0)
    np.testing.assert_allclose(pair.image, np.clip((raw + 1000) / 2000, 0, 1), atol=1e-6)
    assert pairset.intensity["method"] == "window"


def test_cut_and_vanished_labels_are_recorded(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 1)
    cut = run(scans, tmp_path / "cut", size=(6, 18, 20)).record("0")
    whole = run(scans, tmp_path / "whole").record("0")
    lost = sum(whole["voxels"].values()) - sum(cut["voxels"].values())
    assert whole["warnings"] == []
    assert f"{lost} labelled voxels lie outside the size" in cut["warnings"]
    coarse = run(scans, tmp_path / "coarse", spacing=12).record("0")
    assert any("csf vanished" in w for w in coarse["warnings"])


def test_nearly_whole_floats_are_rounded_with_a_warning(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "in", 1)
    _, label = raw_pair()
    save(scans / "0_labels.nii.gz", label.astype(np.float32) + 4e-4, np.diag([2.0, 2, 2, 1]))
    record = run(scans, tmp_path / "out").record("0")
    assert any("rounded" in w for w in record["warnings"])


def spoil_image(value: float) -> Any:
    def change(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image = image.astype(np.float32)
        image[3, 3, 3] = value
        return image, label

    return change


BAD = {
    "nan": (spoil_image(np.nan), "1 voxels are NaN"),
    "infinite": (spoil_image(np.inf), "1 voxels are NaN or infinite"),
    "flat": (lambda i, _: (np.full_like(i, 3), _), "wanted contrast"),
    "float labels": (lambda i, m: (i, m + np.float32(0.4)), "no integers .*0.4"),
    "nan labels": (lambda i, m: (i, np.where(m == 1, np.nan, m).astype("f4")), "NaN"),
    "empty": (lambda i, m: (i, np.zeros_like(m)), "empty mask"),
    "container only": (lambda i, m: (i, np.where(m > 0, 5, 0).astype("u1")), "empty mask"),
    "unknown ids": (lambda i, m: (i, m.astype("i2") * 300), "ids .* are outside schema brain4"),
    "negative ids": (lambda i, m: (i, -m.astype("i2")), "ids -.* are outside schema brain4"),
    "other shape": (lambda i, m: (i, m[:-2]), r"shape .* wanted .* 1_T1"),
    "2D": (lambda i, m: (i[:, :, 5], m[:, :, 5]), "wanted 3D"),
    "4D": (lambda i, m: (np.stack([i, i, i], -1), m), "--channel: 0, 1, 2"),
    "4D mask": (lambda i, m: (i, np.stack([m, m], -1)), "4D"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("first", [True, False])
def test_bad_pairs_are_named_and_write_nothing(tmp_path: Path, name: str, first: bool) -> None:
    change, pattern = BAD[name]
    scans = tmp_path / "in"
    if not first:  # a good pair before the bad one
        write_scans(scans, 1, np.eye(4))
    image, label = change(*raw_pair(seed=1))
    save(scans / "1_T1.nii.gz", image)
    save(scans / "1_labels.nii.gz", label)
    out = tmp_path / "out"
    source = "schema" if name == "container only" else None
    with pytest.raises(MedpairError, match=pattern) as caught:
        run(scans, out, source=source)
    message = str(caught.value)
    assert "\n" not in message
    assert "1_T1.nii.gz" in message or "1_labels.nii.gz" in message
    left = set(files(out)) if out.exists() else set()
    assert left <= {"dataset.json", "manifest.jsonl", "images/0.nii.gz", "labels/0.nii.gz"}
    assert not (first and left)


@pytest.mark.parametrize("part", ["T1", "labels"])
def test_masks_elsewhere_are_refused(tmp_path: Path, part: str) -> None:
    scans = write_scans(tmp_path / "in", 1)
    path = scans / f"0_{part}.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[1, 3] += 3
    save(path, np.asarray(image.dataobj), affine)
    with pytest.raises(MedpairError, match=r"0_labels.nii.gz: affine .* wanted"):
        run(scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_stored_in_another_order_is_the_same_mask(tmp_path: Path) -> None:
    want = run(write_scans(tmp_path / "in", 1), tmp_path / "want").read("0")
    image = nib.load(tmp_path / "in" / "0_labels.nii.gz")
    turned = image.as_reoriented([[1, -1], [0, 1], [2, -1]])
    nib.save(turned, tmp_path / "in" / "0_labels.nii.gz")
    have = run(tmp_path / "in", tmp_path / "have").read("0")
    np.testing.assert_array_equal(have.label, want.label)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"spacing": 0}, "spacing: 0, wanted"),
        ({"spacing": (1, 2)}, "spacing: .*three"),
        ({"spacing": float("nan")}, "positive"),
        ({"size": (10, 10)}, "size: .*three"),
        ({"size": (10, 0, 10)}, "size: .*positive"),
        ({"crop": "brain"}, "crop: 'brain', wanted nonzero"),
        ({"source": "atlas"}, "no source 'atlas'; choose one of schema, neuromorphometrics"),
        ({"holdout": 2}, "holdout: 2"),
        ({"channel": 3}, "has no channel '3'"),
        ({"schema": "brain9"}, "schema 'brain9' is unknown"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], pattern: str) -> None:
    with pytest.raises(MedpairError, match=pattern):
        run(write_scans(tmp_path / "in", 1), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_pair_set_can_be_prepared_again(tmp_path: Path) -> None:
    first = run(write_scans(tmp_path / "in", 2), tmp_path / "a")
    again = prepare(first.dir / "images", first.dir / "labels", "brain4", tmp_path / "b", spacing=4)
    np.testing.assert_allclose(again.read("0").image.max(), 1, atol=0.3)
    assert again.ids() == first.ids()


def test_real_brains(tmp_path: Path) -> None:
    """The twin of the tests above on two real scans of one person."""
    root = os.environ.get("MEDPAIR_DATA")
    if not root or not (Path(root) / "brain_oasis").is_dir():
        pytest.skip("MEDPAIR_DATA is not set to the folder with brain_oasis")
    scans = tmp_path / "in"
    scans.mkdir()
    for name in ("1004_T1", "1004_labels", "1024_T1", "1024_labels"):
        (scans / f"{name}.nii.gz").symlink_to(Path(root, "brain_oasis", f"{name}.nii.gz").resolve())
    persons = Path(__file__).parents[3] / "docs" / "how-to" / "brain_oasis_persons.csv"
    options: dict[str, Any] = {"spacing": 4, "size": (48, 40, 40), "crop": "nonzero"}
    pairset = run(scans, tmp_path / "out", persons=persons, **options)
    assert pairset.ids("validation") == ("1004", "1024")
    assert {pairset.person(i) for i in pairset.ids()} == {"1004"}
    schema = load_schema("brain4")
    for identity in pairset.ids():
        pair, record = pairset.read(identity), pairset.record(identity)
        assert record["warnings"] == []
        assert not pair.label[[0, -1]].any()
        share = {n: v / sum(record["voxels"].values()) for n, v in record["voxels"].items()}
        assert 0.45 < share["cortex"] < 0.65
        assert 0.3 < share["white_matter"] < 0.45
        assert share["csf"] > 0.003
        medians = [
            np.median(pair.image[pair.label == schema.id_of(n)])
            for n in ("csf", "cortex", "subcortical_gm", "white_matter")
        ]
        assert medians == sorted(medians)
        front, back = pair.label[30:].any(axis=0).sum(), pair.label[:18].any(axis=0).sum()
        assert min(front, back) > 300
        cerebellum = pair.label[:20, :14].any(axis=(0, 1)).sum()  # behind and below
        assert cerebellum > 15


def test_in_plane_resizes_each_slice_of_the_crop_and_keeps_the_slices(tmp_path: Path) -> None:
    image = np.zeros((20, 24, 12), np.float32)
    image[4:14, 6:18, 2:11] = np.linspace(10, 90, 10 * 12 * 9).reshape(10, 12, 9)
    mask = np.zeros(image.shape, np.uint8)
    mask[6:10, 8:12, 4:8] = 1
    scans, affine = tmp_path / "scans", np.diag([2.0, 3.0, 5.0, 1.0])
    scans.mkdir()
    nib.save(nib.Nifti1Image(image, affine), scans / "a_img.nii.gz")
    nib.save(nib.Nifti1Image(mask, affine), scans / "a_seg.nii.gz")
    pairs = prepare(
        scans, scans, "lesion1", tmp_path / "out", crop="nonzero", in_plane=(24, 40),
        image_pattern="{id}_img.nii.gz", label_pattern="{id}_seg.nii.gz", source="schema",
    )  # fmt: skip
    pair = pairs.read("a")
    assert pair.label.shape == (9, 24, 40)  # slices S kept; A and R resized
    assert all(part.any() for part in pair.label)  # every slice shows the head
    assert (pairs.size, pairs.spacing) == (None, None)
    # the box of 10 x 12 voxels of 2 x 3 mm fills the plane: R 20 mm / 40, A 36 mm / 24
    assert nib.affines.voxel_sizes(pair.affine) == pytest.approx((0.5, 1.5, 5.0))
    fraction = np.count_nonzero(pair.label == 1) / pair.label.size
    assert fraction == pytest.approx(4 * 4 * 4 / (10 * 12 * 9), rel=0.15)


def test_in_plane_and_size_exclude_each_other(tmp_path: Path) -> None:
    write_scans(tmp_path / "scans", 1)
    with pytest.raises(MedpairError, match=r"in_plane: \(8, 8\) with size \(4, 8, 8\)"):
        run(tmp_path / "scans", tmp_path / "out", size=(4, 8, 8), in_plane=(8, 8))
    assert not (tmp_path / "out").exists()
