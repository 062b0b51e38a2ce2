import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import MedpairError
from common.io.lock import exclusive

HOLD = """
import sys, time
from pathlib import Path
from common.io.lock import exclusive
with exclusive(Path(sys.argv[1])):
    Path(sys.argv[1], ".tmp-1-half.nii.gz").touch()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with exclusive(folder):
        with pytest.raises(MedpairError, match="another run is writing here; wait for it or"):
            exclusive(folder).__enter__()
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(folder):
        assert not list(folder.iterdir())  # the lock itself leaves no file


def test_a_run_that_fails_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        raise ZeroDivisionError
    with exclusive(tmp_path):
        pass


def test_unfinished_files_are_cleared_and_finished_ones_kept(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (".tmp-7-a.nii.gz", "a.nii.gz", "images/.tmp-7-b.nii.gz", "images/b.nii.gz"):
        (tmp_path / name).touch()
    with exclusive(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a.nii.gz", "images/b.nii.gz"}


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(MedpairError, match="another run"):
            exclusive(tmp_path).__enter__()
        other.kill()
    with exclusive(tmp_path):
        assert not list(tmp_path.iterdir())
