"""Packed bundles: what is in them, and that they run where medpair is not installed."""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import common.bundles
import common.pack
from common.bundles import bundles, bundles_dir
from common.cli import main
from common.errors import MedpairError
from common.pack import Bundle, content, pack, used_modules
from tests.environments import foreign_environment, run_apart

ROOT = Path(__file__).parents[2]
RUNS = {  # a small run of each bundle, and what it writes
    "mcdpm_mask": ["--num", "1", "--num_steps", "2"],
    "vid2vid_image": [],
    "sdm_refiner": [],
    "gem3d_volume": ["--num_steps", "2"],
    "segmentation_eval": [],
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bundles, packed and unzipped."""
    folder = tmp_path_factory.mktemp("packed")
    for path in pack("all", folder / "zips"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder / "bundles")
    return folder


@pytest.fixture(scope="module")
def foreign_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return foreign_environment(tmp_path_factory.mktemp("environment"))


def infer(python: str, root: Path, out: Path, place: Path, **more: str) -> None:
    """Run a bundle's inference as its card says."""
    config = str(root / "configs" / "inference.yaml")
    words = ["-m", "monai.bundle", "run", "--config_file", config, "--output_dir", str(out)]
    done = run_apart(python, [*words, "--device", "cpu", *RUNS[root.name]], place, **more)
    assert done.returncode == 0, done.stderr[-2000:]


def volumes(folder: Path) -> dict[str, str]:
    found = sorted(folder.rglob("*.nii.gz"))
    assert found
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.mark.parametrize("name", bundles())
def test_a_packed_bundle_gives_the_same_bytes_without_medpair(
    name: str, packed: Path, foreign_python: str, tmp_path: Path
) -> None:
    assert run_apart(foreign_python, ["-c", "import common"], tmp_path / "else").returncode == 1
    infer(foreign_python, packed / "bundles" / name, tmp_path / "packed", tmp_path / "else")
    infer(sys.executable, bundles_dir() / name, tmp_path / "source", tmp_path, PYTHONPATH=str(ROOT))
    assert volumes(tmp_path / "packed") == volumes(tmp_path / "source")


MIXED = """
import sys
from pathlib import Path
from monai.bundle import ConfigWorkflow
for word in sys.argv[2:]:
    root = Path(word)
    flow = ConfigWorkflow(str(root / "configs" / "inference.yaml"), logging_file=False,
        workflow_type="infer", output_dir=sys.argv[1] + "/" + root.name, device="cpu",
        **({"num": 1, "num_steps": 2} if root.name == "mcdpm_mask" else {}),
        **({"num_steps": 2} if root.name == "gem3d_volume" else {}))
    flow.initialize()
    flow.run()
"""


def test_packed_and_unpacked_bundles_share_a_process(
    packed: Path, foreign_python: str, tmp_path: Path
) -> None:
    mixed = [
        (bundles_dir() if number % 2 else packed / "bundles") / name
        for number, name in enumerate(bundles())
    ]
    done = run_apart(
        sys.executable,
        ["-c", MIXED, str(tmp_path / "mixed"), *map(str, mixed)],
        tmp_path / "else",
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    infer(foreign_python, packed / "bundles" / "sdm_refiner", tmp_path / "alone", tmp_path / "else")
    assert volumes(tmp_path / "mixed" / "sdm_refiner") == volumes(tmp_path / "alone")
    assert {path.name for path in (tmp_path / "mixed").iterdir()} == set(bundles())


def test_two_copies_of_a_bundle_in_a_process_are_refused(packed: Path, tmp_path: Path) -> None:
    twice = [packed / "bundles" / "mcdpm_mask", bundles_dir() / "mcdpm_mask"]
    done = run_apart(
        sys.executable,
        ["-c", MIXED, str(tmp_path / "out"), *map(str, twice)],
        tmp_path / "else",
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 1
    assert "run each copy of a bundle in a process of its own" in done.stderr


def test_equal_sources_give_equal_bytes(packed: Path, tmp_path: Path) -> None:
    again = pack("vid2vid_image", tmp_path)[0]
    assert again.read_bytes() == (packed / "zips" / again.name).read_bytes()
    (line,) = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert line == f"{hashlib.sha256(again.read_bytes()).hexdigest()}  {again.name}"


@pytest.mark.parametrize("name", bundles())
def test_the_sums_tell_every_file(name: str, packed: Path) -> None:
    root = packed / "bundles" / name
    told = dict(
        reversed(line.split("  ")) for line in (root / "SHA256SUMS").read_text().splitlines()
    )
    there = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert there.pop("SHA256SUMS")
    assert told == {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in there.items()}
    assert {"LICENSE", "docs/data_license.txt", "configs/metadata.json"} <= set(told)


@pytest.mark.parametrize("name", bundles())
def test_nothing_of_a_packed_bundle_wants_our_common(name: str, packed: Path) -> None:
    root = packed / "bundles" / name
    for path in root.rglob("*.py"):
        assert not list(common.pack._imports(path.read_text(encoding="utf-8"))), path
    for path in root.glob("*/*.yaml"):
        assert "_target_: common." not in path.read_text(encoding="utf-8")
        yaml.safe_load(path.read_text(encoding="utf-8"))


def test_only_used_modules_are_packed() -> None:
    names = {path.name for path in used_modules(Bundle.open(bundles_dir() / "vid2vid_image"))}
    assert {"windows.py", "phantom.py", "brain4.yaml"} <= names
    assert not {"cli.py", "pack.py", "prepare.py"} & names


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that may be damaged."""
    folder = tmp_path / "bundles"
    shutil.copytree(bundles_dir() / "mcdpm_mask", folder / "mcdpm_mask")
    monkeypatch.setattr(common.bundles, "bundles_dir", lambda: folder)
    monkeypatch.setattr(common.pack, "bundles_dir", lambda: folder)
    return folder / "mcdpm_mask"


def test_what_runs_write_is_left_out(copied: Path) -> None:
    before = content(Bundle.open(copied))
    for folder in ("eval", "mcdpm/__pycache__", "configs/.cache"):
        (copied / folder).mkdir(exist_ok=True)
        (copied / folder / "file.pyc").write_text("x")
    assert content(Bundle.open(copied)) == before


def test_large_files_are_downloaded_not_packed(copied: Path) -> None:
    (copied / "models" / "base.pt").write_bytes(bytes(26 * 2**20))
    with pytest.raises(MedpairError, match=r"base\.pt: over 25 MB; list it in large_files\.yml"):
        Bundle.open(copied)
    listed = {"large_files": [{"path": "models/base.pt", "url": "https://example.org/base.pt"}]}
    (copied / "large_files.yml").write_text(yaml.safe_dump(listed))
    found = content(Bundle.open(copied))
    assert "large_files.yml" in found
    assert "models/base.pt" not in found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "LICENSE").unlink(), "LICENSE is missing"),
        (lambda root: (root / "models" / "model.pt").unlink(), "models/model.pt is missing"),
        (lambda root: (root / "notes.txt").write_text("x"), "notes.txt is no part of a bundle"),
        (lambda root: shutil.rmtree(root / "mcdpm"), "packages none, wanted one"),
    ],
)
def test_a_damaged_bundle_is_named_and_nothing_written(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object, message: str
) -> None:
    assert callable(damage)
    damage(copied)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["pack", "all", "--out", str(out)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_an_unknown_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="found 'nothing', wanted one of gem3d_volume"):
        pack("nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_below_a_folder_called_eval_is_packed_whole(tmp_path: Path) -> None:
    root = bundles_dir() / "vid2vid_image"
    copy = shutil.copytree(root, tmp_path / "eval" / root.name)
    assert content(Bundle.open(copy)) == content(Bundle.open(root))
