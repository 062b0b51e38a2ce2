"""A real MONAI Label server with the packed bundles, for the whole session."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from common.data.phantom import make_phantom
from common.data.views import from_dhw

SCRIPT = Path(__file__).parents[2] / "docs" / "how-to" / "monai_label" / "serve.py"
AFFINE = np.array(  # left first, superior last, a little oblique; 4 mm
    [[-3.98, 0.35, 0.0, 80.0], [0.35, 3.98, 0.0, -90.0], [0.0, 0.0, 4.0, -60.0], [0, 0, 0, 1.0]]
)
CASES = 4


@dataclass(frozen=True)
class Server:
    """Where the server answers, what it reads and writes, and what it said."""

    url: str
    studies: Path
    app: Path
    log: Path

    @property
    def models(self) -> Path:
        return self.app / "monaibundle" / "model"


@pytest.fixture(scope="session")
def serve() -> ModuleType:
    """The script that starts it, as a module."""
    spec = importlib.util.spec_from_file_location("serve", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def label() -> Path:
    """The environment of MONAI Label."""
    folder = os.environ.get("MEDPAIR_LABEL")
    if not folder:
        pytest.skip("MEDPAIR_LABEL is not set: make test-label sets it")
    return Path(folder)


@pytest.fixture(scope="session")
def server(
    label: Path, serve: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("label")
    studies, app, log = folder / "studies", folder / "app", folder / "server.log"
    write_studies(studies)
    port = free_port()
    command = serve.prepare(label, app, studies, port)
    environment = serve.environment(label) | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=app)
    try:
        wait(f"http://127.0.0.1:{port}/info/", process, log)
        yield Server(f"http://127.0.0.1:{port}", studies, app, log)
    finally:
        process.terminate()
        process.wait(30)


def write_studies(folder: Path) -> None:
    """Write phantoms as studies: scans with labels, a mask, and a scan with its mask in one."""
    final = folder / "labels" / "final"
    final.mkdir(parents=True)
    for number in range(CASES):
        image_dhw, label_dhw = make_phantom("brain4", (48, 40, 40), number)
        image = np.flip(from_dhw(image_dhw, "AP"), 0) * 1000
        label = np.flip(from_dhw(label_dhw, "AP"), 0)
        save(image.astype(np.float32), folder / f"case{number}.nii.gz")
        save(label, final / f"case{number}.nii.gz")
        if number == 0:
            save(label, folder / "mask.nii.gz")
            save(np.stack([image, label], -1).astype(np.float32), folder / "both.nii.gz")


def save(array: np.ndarray, path: Path) -> None:
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def wait(url: str, process: subprocess.Popen[bytes], log: Path, seconds: int = 180) -> None:
    for _ in range(seconds):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    raise AssertionError(f"no answer in {seconds} s: {log.read_text()[-3000:]}")
