"""What the ablation's script says to wrong input."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from common.data.datasets import Pair, PairSet, load_arrays

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "refiner_ablation.py"


def test_masks_that_are_not_of_kept_back_scans_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_arrays("phantom:brain4:16x16x16:2", "training")
    real, images = (
        PairSet.create(tmp_path / name, data.schema, (4.0,) * 3, (16,) * 3, {})
        for name in ("real", "images")
    )
    first, second = (
        Pair(name, image, label, np.diag([4.0, 4.0, 4.0, 1.0]))
        for name, image, label in zip("ab", data.images, data.labels, strict=True)
    )
    real.write(first)
    real.write(second, {"split": "validation"})
    images.write(first)  # of a training scan
    folders = ["--data", str(real.dir), "--images", str(images.dir), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *folders])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert end.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"error: --images: {images.dir} holds masks that are not those of kept")
    assert not (tmp_path / "out").exists()
