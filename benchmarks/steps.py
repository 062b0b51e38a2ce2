"""Long benchmarks as steps: commands that are kept when they are finished."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from monai.bundle import ConfigParser

from common.bundles import bundles_dir
from common.errors import MedpairError
from common.io.atomic import write_json

Words = list[str]


class Steps:
    """Commands of Python that run one after the other, each at most once.

    Args:
        folder: gets a JSON and a log per step.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, words: Words) -> None:
        """Run a step unless the same words ran to their end before.

        Raises:
            MedpairError: if the command fails; its log says why.
        """
        done, log = self.folder / f"{name}.json", self.folder / f"{name}.log"
        if done.is_file() and json.loads(done.read_text(encoding="utf-8"))["words"] == words:
            return
        print(f"{name} ...", end=" ", flush=True)
        began = time.perf_counter()
        command = [sys.executable, *words]
        with log.open("w", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
        seconds = time.perf_counter() - began
        if code:
            print("failed")
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise MedpairError(f"{name}: exit code {code}; {log} ends with: {' '.join(last)}")
        write_json(done, {"words": words, "seconds": round(seconds, 1)})
        print(f"{seconds:.0f} s", flush=True)

    def seconds(self) -> Mapping[str, float]:
        """Return the seconds of every finished step."""
        files = sorted(self.folder.glob("*.json"))
        found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
        return {name: step["seconds"] for name, step in found.items()}


def command(*words: object, **options: object) -> Words:
    """Return words and options; None and False leave one out, True is a flag, a list repeats it."""
    found = [str(word) for word in words]
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value is not None and value is not False:
            for one in value if isinstance(value, list) else [value]:
                found += [flag, str(one)]
    return found


def medpair(*words: object, **options: object) -> Words:
    """Return the words of a command of medpair."""
    return command("-m", "medpair", *words, **options)


def monai(bundle: str, config: str, overlay: str | None = None, **keys: object) -> Words:
    """Return the words that run a bundle's config, with an overlay of its presets if it has one."""
    root = bundles_dir() / bundle
    files = [root / "configs" / f"{config}.yaml", root / "presets" / f"{overlay}.yaml"]
    given = [str(path) for path in files if path.is_file()]
    known = ConfigParser.load_config_files(given)
    unknown = [key for key in keys if key not in known]
    if unknown:  # MONAI would take it and change nothing
        raise MedpairError(f"{files[0]}: no key {unknown[0]}; correct the step")
    words = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
    return ["-m", "monai.bundle", "run", "--config_file", json.dumps(given), *words]
