"""What the tests of several stages share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from common.data.datasets import Arrays, load_arrays
from common.data.prepare import prepare

# how long an example takes says nothing on a busy machine
settings.register_profile("medpair", deadline=None)
settings.load_profile("medpair")

KEPT_BACK = ("1004", "1019")  # of the trainings of all weights that ship


@pytest.fixture(scope="session")
def kept_back_scans(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """Real scans that no shipped weights saw, prepared as theirs; skips where there are none."""
    root = os.environ.get("MEDPAIR_DATA")
    if not root:
        pytest.skip("MEDPAIR_DATA is not set: no real scans")
    source = Path(root) / "brain_oasis"
    if not source.is_dir():
        pytest.skip("MEDPAIR_DATA holds no brain_oasis")
    folder = tmp_path_factory.mktemp("kept_back")
    scans = folder / "scans"
    scans.mkdir()
    for name in KEPT_BACK:
        for kind in ("T1", "labels"):
            shutil.copy(source / f"{name}_{kind}.nii.gz", scans)
    prepare(
        scans,
        scans,
        "brain4",
        folder / "pairs",
        spacing=4.0,
        size=(48, 40, 40),
        crop="nonzero",
        source="neuromorphometrics",
    )
    return load_arrays(folder / "pairs", None)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, for comparisons of bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
