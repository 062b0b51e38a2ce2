"""MONAI Label runs every bundle, through its REST interface; `make test-label`."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from common.bundles import bundles
from tests.label.conftest import SCRIPT, Server, free_port

pytestmark = pytest.mark.label

BOUNDARY = "----parameters"
INPUTS = {
    "segmentation_eval": "case0",
    "mcdpm_mask": "case0",
    "vid2vid_image": "mask",
    "gem3d_volume": "mask",
    "sdm_refiner": "both",
}


def ask(server: Server, model: str, study: str, output: str, **more: Any) -> bytes:
    """Send a request for inference and return its answer."""
    parameters = json.dumps({"device": "cpu", **more})
    body = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=params\r\n\r\n{parameters}\r\n"
        f"--{BOUNDARY}--\r\n"
    )
    request = urllib.request.Request(
        f"{server.url}/infer/{model}?image={study}&output={output}",
        body.encode(),
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        content: bytes = answer.read()
    return content


def volume(server: Server, model: str, study: str, **more: Any) -> nib.Nifti1Image:
    content = gzip.decompress(ask(server, model, study, "image", **more))
    return nib.Nifti1Image.from_bytes(content)


def notes(server: Server, model: str, study: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ask(server, model, study, "json", **more))
    return answer


def study_of(server: Server, name: str) -> nib.Nifti1Image:
    found: nib.Nifti1Image = nib.load(server.studies / f"{name}.nii.gz")
    return found


def train(server: Server, model: str, **more: Any) -> int:
    request = urllib.request.Request(
        f"{server.url}/train/{model}?run_sync=true",
        json.dumps({"device": "cpu", "multi_gpu": False, **more}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=900) as answer:
        code: int = answer.status
    return code


def array_of(image: nib.Nifti1Image) -> np.ndarray:
    return np.asanyarray(image.dataobj)


def test_all_bundles_are_imported(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/info/") as answer:
        found = json.load(answer)["models"]
    assert set(found) == set(bundles())
    assert found["segmentation_eval"]["labels"]["white_matter"] == 3


@pytest.mark.parametrize("name", bundles())
def test_a_result_lies_on_the_grid_of_its_study(server: Server, name: str) -> None:
    study, made = study_of(server, INPUTS[name]), volume(server, name, INPUTS[name])
    assert made.shape == study.shape[:3]
    np.testing.assert_allclose(made.affine, study.affine, atol=1e-4)
    values = array_of(made)
    assert np.isfinite(values).all()
    assert values.std() > 0
    assert "Checkpoint keys don't match" not in log(server)


@pytest.mark.parametrize("name", ["vid2vid_image", "gem3d_volume"])
def test_an_image_shows_the_tissues_of_its_mask(server: Server, name: str) -> None:
    mask = array_of(study_of(server, "mask"))
    image = array_of(volume(server, name, "mask"))
    assert 0 <= image.min() <= image.max() <= 1
    csf, cortex, white = (float(np.median(image[mask == value])) for value in (4, 1, 3))
    assert csf < cortex < white
    assert float(np.median(image[mask == 0])) < 0.05


def test_a_mask_is_new_for_every_seed_and_the_same_for_one(server: Server) -> None:
    first, again, other = (
        array_of(volume(server, "mcdpm_mask", "case0", seed=seed)) for seed in (1, 1, 2)
    )
    assert set(np.unique(first)) == set(range(6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_refiner_says_whether_it_saw_a_mask(server: Server) -> None:
    assert notes(server, "sdm_refiner", "both")["mask"] == "channel 2"
    assert "null mask" in notes(server, "sdm_refiner", "case0")["mask"]
    scan = array_of(study_of(server, "case0"))
    for study in ("both", "case0"):
        refined = array_of(volume(server, "sdm_refiner", study))
        assert np.corrcoef(refined.ravel(), scan.ravel())[0, 1] > 0.9
        assert 0.8 < np.percentile(refined, 98) / np.percentile(scan, 98) < 1.2


def test_segmentation_says_what_the_command_says(server: Server, tmp_path: Path) -> None:
    scan = server.studies / "case1.nii.gz"
    config = Path("bundles/segmentation_eval/configs/inference.yaml").resolve()
    words = ["--config_file", str(config), "--image", str(scan), "--output_dir", str(tmp_path)]
    command = [sys.executable, "-m", "monai.bundle", "run", *words]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    ours = array_of(nib.load(tmp_path / "case1_mask.nii.gz"))
    theirs = array_of(volume(server, "segmentation_eval", "case1"))
    assert np.mean(ours == theirs) > 0.9999


@pytest.mark.parametrize(
    ("name", "study", "says"),
    [
        ("vid2vid_image", "case0", "label values are no integers"),
        ("segmentation_eval", "both", "wanted a volume of 1 channel"),
    ],
)
def test_a_study_of_the_wrong_kind_is_named_in_the_log(
    server: Server, name: str, study: str, says: str
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="500"):
        ask(server, name, study, "image")
    assert "errors.MedpairError: study: " in logged(server, says)


def test_a_request_without_a_study_is_refused(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(server, "mcdpm_mask", "", "image")
    assert "Neither Image nor File" in caught.value.read().decode()


def test_weights_under_a_wrong_key_never_run(server: Server) -> None:
    folder = server.models / "mcdpm_mask" / "models"
    content = {"state_dict": {"a.weight": [1.0]}}
    script = "import sys, json, torch; torch.save(json.loads(sys.argv[1]), sys.argv[2])"
    wrong = folder / "other.pt"
    subprocess.run([sys.executable, "-c", script, json.dumps(content), str(wrong)], check=True)
    # another seed, since results are kept
    with pytest.raises(urllib.error.HTTPError, match="500"):
        ask(server, "mcdpm_mask", "case0", "image", model_filename=wrong.name, seed=77)
    wrong.unlink()
    assert "MedpairError" in logged(server, "weights of MaskDenoiser: the file lacks")


def test_an_epoch_of_training_changes_what_is_used_next(server: Server) -> None:
    weights = server.models / "segmentation_eval" / "models" / "model.pt"
    before = array_of(volume(server, "segmentation_eval", "case2"))
    bytes_before = weights.read_bytes()
    truth = array_of(nib.load(server.studies / "labels" / "final" / "case2.nii.gz"))
    assert train(server, "segmentation_eval", max_epochs=1, val_split=0.5) == 200
    assert weights.read_bytes() != bytes_before
    assert json.loads(weights.with_suffix(".json").read_text())["iterations"] == 50
    after = array_of(volume(server, "segmentation_eval", "case2"))
    assert np.mean(after == truth) > np.mean(before == truth)  # phantoms, no longer brains
    assert train(server, "segmentation_eval", max_epochs=1, val_split=0.0) == 200


def test_a_busy_port_is_one_line(
    server: Server, label: Path, serve: ModuleType, tmp_path: Path
) -> None:
    port = server.url.rsplit(":", 1)[1]
    words = ["--label", str(label), "--studies", str(server.studies), "--app", str(tmp_path)]
    made = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--port", port],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert made.returncode == 2
    assert made.stderr.splitlines() == [
        f"error: --port: {port} is in use on 127.0.0.1 (Address already in use); choose another"
    ]
    assert not list(tmp_path.iterdir())


def test_missing_folders_are_named(label: Path, serve: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        serve.prepare(label, tmp_path / "app", tmp_path / "none", free_port())
    with pytest.raises(ValueError, match="make it with make label-setup"):
        serve.prepare(tmp_path, tmp_path / "app", tmp_path, free_port())


def log(server: Server) -> str:
    return server.log.read_text()


def logged(server: Server, says: str) -> str:
    """Return the line of the log that says so; it comes a moment after the answer."""
    for _ in range(20):
        for line in log(server).splitlines():
            if says in line:
                return line
        time.sleep(0.5)
    raise AssertionError(log(server)[-2000:])
