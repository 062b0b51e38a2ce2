"""Start MONAI Label on 127.0.0.1 with packed bundles; it stops with Ctrl-C.

    python docs/how-to/monai_label/serve.py --label .label --studies FOLDER [--port 8000]

The bundles are packed and unpacked into ``--app``, so that trainings change no file of the source.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"  # MONAI Label asks nobody for a password


def main() -> int:
    """Pack, start and wait; return the exit code."""
    words = arguments()
    try:
        command = prepare(words.label, words.app, words.studies, words.port, words.bundles)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"MONAI Label: http://{HOST}:{words.port} (studies in {words.studies})", flush=True)
    try:
        return subprocess.call(command, cwd=words.app, env=environment(words.label))
    except KeyboardInterrupt:
        return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", type=Path, default=Path(".label"), help="its environment")
    parser.add_argument("--studies", type=Path, required=True, help="folder of .nii.gz files")
    parser.add_argument("--app", type=Path, default=Path("runs/monai_label"), help="to write")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--bundles", nargs="*", default=None, help="names; default: all")
    return parser.parse_args()


def prepare(
    label: Path, app: Path, studies: Path, port: int, chosen: list[str] | None = None
) -> list[str]:
    """Make the folder of the application and return the command that starts the server.

    Args:
        label: virtual environment with MONAI Label.
        app: folder to write; bundles that lie there already are kept, with what they were taught,
            and of the version that they are.
        studies: folder of studies.
        port: on 127.0.0.1.
        chosen: bundles; None takes all.

    Raises:
        ValueError: where something is missing or the port is taken; one line.
    """
    from common.bundles import bundles

    python = python_of(label)
    if not studies.is_dir():
        raise ValueError(f"--studies: {studies} is no folder; give one with .nii.gz files")
    if not python.is_file():
        raise ValueError(f"--label: {label} holds no environment; make it with make label-setup")
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise ValueError(
                f"--port: {port} is in use on {HOST} ({error.strerror}); choose another"
            ) from error
    names = chosen or list(bundles())
    home = app / "monaibundle"
    if not home.is_dir():
        download = ["-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
        made = subprocess.run(
            [python, *download, "--output", app.resolve()],
            env=environment(label),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            last = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(f"--label: {label} does not run MONAI Label ({last}); make it again")
    for name in names:
        if not (home / "model" / name / "configs" / "metadata.json").is_file():
            unpack(name, home / "model")
    return [
        *(str(python), "-m", "monailabel.main", "start_server"),
        *("--app", str(home.resolve()), "--studies", str(studies.resolve())),
        *("--host", HOST, "--port", str(port), "--conf", "models", ",".join(names)),
        # anything but "monaihosting" keeps the server from listing the zoo; no weights of SAM 2
        *("--conf", "zoo_source", "local", "--conf", "sam2", "false"),
    ]


def unpack(name: str, folder: Path) -> None:
    """Pack a bundle and unpack it below a folder."""
    from common.pack import pack

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        (path,) = pack(name, scratch)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(Path(scratch) / "unpacked")
        shutil.rmtree(folder / name, ignore_errors=True)  # what a killed start left
        (Path(scratch) / "unpacked" / name).rename(folder / name)  # whole or not at all


def python_of(label: Path) -> Path:
    """Return the Python of an environment."""
    return label.absolute() / "bin" / "python"


def environment(label: Path) -> dict[str, str]:
    """Return the variables of the server: its own Python alone, none of our source tree."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    path = os.pathsep.join([str(python_of(label).parent), kept.get("PATH", "")])
    # torchvision beside a CPU build of torch wants help, see sitecustomize.py
    return kept | {"PATH": path, "PYTHONPATH": str(HERE / "site")}


if __name__ == "__main__":
    sys.exit(main())
