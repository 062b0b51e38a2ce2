from pathlib import Path

import pytest

from common.data.matching import match_files, plan_scans, read_persons, split_persons
from common.errors import MedpairError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_one_shared_folder(tmp_path: Path) -> None:
    both = touch(
        tmp_path / "both", *(f"{i}_{k}.nii.gz" for i in (1000, 1010) for k in ("T1", "labels"))
    )
    touch(both, "labels.csv", "LICENSE", ".hidden.nii.gz")
    files = match_files(both, both)
    assert list(files) == ["1000", "1010"]
    assert [p.name for p in files["1010"]] == ["1010_T1.nii.gz", "1010_labels.nii.gz"]


@pytest.mark.parametrize(
    ("images", "labels", "ids"),
    [
        (("a.nii", "b.nii"), ("a.nii.gz", "b.mgz"), ["a", "b"]),
        (("p-1_0000.nii.gz", "p-2_0000.nii.gz"), ("p-1.nii.gz", "p-2.nii.gz"), ["p-1", "p-2"]),
        (("x1_T1.nii", "x2_T1.nii"), ("x1_seg.nii", "x2_seg.nii"), ["x1", "x2"]),
        (("10_T1.nii", "20_T1.nii"), ("10.nii", "20.nii"), ["10", "20"]),
        (("spleen_8_ct.nii.gz",), ("spleen_8_label.nii.gz",), ["spleen_8"]),
        (("ct.nii",), ("organs.nii",), ["ct"]),
    ],
)
def test_two_folders(
    tmp_path: Path, images: tuple[str, ...], labels: tuple[str, ...], ids: list[str]
) -> None:
    first, second = touch(tmp_path / "i", *images), touch(tmp_path / "l", *labels)
    assert list(match_files(first, second)) == ids


def test_patterns(tmp_path: Path) -> None:
    both = touch(tmp_path / "b", "T1-01.nii", "T2-01.nii", "mask-01.nii", "note-01.nii")
    files = match_files(both, both, "T1-{id}.nii", "mask-{id}.nii")
    assert [p.name for p in files["01"]] == ["T1-01.nii", "mask-01.nii"]
    with pytest.raises(MedpairError, match=r"no \{id\} in it"):
        match_files(both, both, "T1.nii", "mask-{id}.nii")
    with pytest.raises(MedpairError, match="no images among 4 volumes"):
        match_files(both, both, "PD-{id}.nii", "mask-{id}.nii")
    with pytest.raises(MedpairError, match=r"id '01' already belongs to T1-01\.nii"):
        match_files(both, both, "T*-{id}.nii", "mask-{id}.nii")


def test_a_folder_per_patient(tmp_path: Path) -> None:
    for number in ("01", "02"):
        name = f"Patient_{number}"
        touch(tmp_path / "s", ".trash.nii.gz")
        touch(tmp_path / "s" / name, f"{name}.nii.gz", "GT.nii.gz", "notes.txt")
    files = match_files(tmp_path / "s", tmp_path / "s", "{id}/{id}.nii.gz", "{id}/GT.nii.gz")
    assert list(files) == ["Patient_01", "Patient_02"]
    assert [p.name for p in files["Patient_02"]] == ["Patient_02.nii.gz", "GT.nii.gz"]
    files = match_files(tmp_path / "s", tmp_path / "s", "Patient_{id}/P*.nii.gz", "P*_{id}/GT*")
    assert list(files) == ["01", "02"]
    with pytest.raises(MedpairError, match=r"Patient_01/GT\.nii\.gz give patterns with folders"):
        match_files(tmp_path / "s", tmp_path / "s")
    touch(tmp_path / "s" / "Patient_03", "Patient_04.nii.gz", "GT.nii.gz")
    with pytest.raises(MedpairError, match=r"without an image \(Patient_03\)"):
        match_files(tmp_path / "s", tmp_path / "s", "{id}/{id}.nii.gz", "{id}/GT.nii.gz")


def test_missing_and_lonely_files(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.nii", "b.nii", "c.nii")
    labels = touch(tmp_path / "l", "a.nii", "b.nii", "d.nii")
    with pytest.raises(MedpairError, match=r"i: 1 files without a mask \(c\)"):
        match_files(images, labels)
    (images / "c.nii").unlink()
    with pytest.raises(MedpairError, match=r"l: 1 files without an image \(d\)"):
        match_files(images, labels)
    with pytest.raises(MedpairError, match="no such folder"):
        match_files(tmp_path / "none", labels)
    with pytest.raises(MedpairError, match=r"no \.nii.gz"):
        match_files(touch(tmp_path / "empty"), labels)
    with pytest.raises(MedpairError, match="no masks among 2 volumes"):
        match_files(images, images)


def csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_persons(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "p.csv", "id,person,split", "1,A,training", "2,B,validation", "3,A,training"
    )
    assert read_persons(path, ["1", "2"]) == {"1": ("A", "training"), "2": ("B", "validation")}
    files = {i: (Path(i), Path(i)) for i in ("1", "2", "3")}
    scans = plan_scans(files, path, 0.5, 0)
    assert [(s.id, s.person, s.split) for s in scans] == [
        ("1", "A", "training"),
        ("2", "B", "validation"),
        ("3", "A", "training"),
    ]


@pytest.mark.parametrize(
    ("lines", "pattern"),
    [
        (("id,name", "1,A"), "wanted id,person"),
        (("id,person", "2,A"), "no line for 1"),
        (("id,person,split", "1,A,test"), "split 'test'"),
        (("id,person,split", "1,A,training", "2,A,validation"), "person A stands in two splits"),
    ],
)
def test_wrong_persons(tmp_path: Path, lines: tuple[str, ...], pattern: str) -> None:
    ids = ["1", "2"] if "two" in pattern else ["1"]
    with pytest.raises(MedpairError, match=pattern):
        read_persons(csv(tmp_path / "p.csv", *lines), ids)
    with pytest.raises(MedpairError, match="no such file"):
        read_persons(tmp_path / "none.csv", ids)


def test_a_person_never_stands_on_both_sides(tmp_path: Path) -> None:
    lines = [f"{i},P{i % 7}" for i in range(40)]
    path = csv(tmp_path / "p.csv", "id,person", *lines)
    files = {str(i): (Path(), Path()) for i in range(40)}
    for seed in range(5):
        scans = plan_scans(files, path, 0.3, seed)
        sides = {
            split: {s.person for s in scans if s.split == split}
            for split in ("training", "validation")
        }
        assert not sides["training"] & sides["validation"]
        assert len(sides["validation"]) == 2


def test_the_draw() -> None:
    people = [f"p{i}" for i in range(10)]
    assert split_persons(people, 0.2, 3) == split_persons(people[::-1], 0.2, 3)
    assert split_persons(people, 0.2, 3) != split_persons(people, 0.2, 4)
    assert set(split_persons(people, 0.0, 0).values()) == {"training"}
    assert list(split_persons(["a", "b"], 0.9, 0).values()).count("training") == 1
    assert split_persons(["a"], 0.5, 0) == {"a": "training"}
    with pytest.raises(MedpairError, match="wanted 0 <= holdout < 1"):
        split_persons(people, 1.0, 0)


def test_the_projects_own_split() -> None:
    path = Path(__file__).parents[3] / "docs" / "how-to" / "brain_oasis_persons.csv"
    ids = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
    table = read_persons(path, ids)
    held = {i for i, (_, split) in table.items() if split == "validation"}
    assert held == {"1004", "1005", "1018", "1019", "1024", "1025", "1038", "1039"}
    assert len(table) == 28
    assert [table[i][0] for i in ("1024", "1025", "1038", "1039")] == [
        "1004",
        "1005",
        "1018",
        "1019",
    ]
