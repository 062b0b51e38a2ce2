"""Cells of a comparison: trainings and scorings, each in a folder named by all that decides it.

A finished cell is never made again; one that was interrupted goes on from its checkpoint.

D, H, W volume size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from common.data.datasets import PairSet
from common.data.labels import LabelSchema
from common.engines.device import pick_device
from common.engines.inferers import resolve_precision
from common.errors import MedpairError
from common.io.atomic import append_jsonl, to_json, write_json
from common.io.manifest import sha256, versions
from common.io.usage import Usage
from common.stages import open_workflow, plain_errors
from segeval.paths import bundle_root
from segeval.pools import Item, Pool
from segeval.scores import Scores, score_masks

FORMAT = "medpair-cell-1"
APART = ("sizes", "learning_rates", "learning_rate", "parts", "dataset_dir", "output_dir", "device")
"""Keys of train.yaml that enter a cell's inputs by themselves, or do not decide its bytes."""
Chosen = Sequence[tuple[Pool, Sequence[Item]]]
"""Pairs that are used, by their sets."""


@dataclass(frozen=True)
class Cell:
    """A training.

    Attributes:
        inputs: all that decides its weights, ready for JSON.
        parts: its data, see `segeval.parts`.
        initial: the training that it goes on from.
    """

    inputs: Mapping[str, Any]
    parts: tuple[Mapping[str, Any], ...]
    initial: Cell | None = None

    @property
    def key(self) -> str:
        """Name of its folder."""
        return key_of(self.inputs)


@dataclass(frozen=True)
class Recipe:
    """What the cells of one network share.

    Attributes:
        architecture: of the network.
        preset: of its size and training.
        overrides: further values by config key.
        config: content of train.yaml with all of them.
        schema: of all masks.
    """

    architecture: str
    preset: str
    overrides: Mapping[str, Any]
    config: Mapping[str, Any]
    schema: LabelSchema

    @property
    def updates(self) -> int:
        """Optimiser updates of a full training, by the preset."""
        return int(self.config["max_iterations"])

    def learning_rate(self, factor: float) -> float:
        """Return the network's learning rate times a factor."""
        rate = self.config["learning_rate"]
        own = rate if isinstance(rate, float) else self.config["learning_rates"][self.architecture]
        return float(own) * factor

    def cell(
        self, data: Chosen, updates: int, factor: float, seed: int, initial: Cell | None
    ) -> Cell:
        """Return the cell of a training.

        Args:
            data: what it sees.
            updates: optimiser updates.
            factor: of the learning rate.
            seed: of first weights and draws.
            initial: the training that it goes on from.
        """
        rest = {key: value for key, value in self.config.items() if key not in APART}
        precision = resolve_precision(pick_device(), str(self.config["precision"]))
        inputs = {
            "format": FORMAT,
            "kind": "training",
            "versions": versions("medpair", "torch", "monai"),
            "config_sha256": hashlib.sha256(_stable(rest)).hexdigest(),
            "schema_sha256": hashlib.sha256(_stable(self.schema.to_dict())).hexdigest(),
            "architecture": self.architecture,
            "options": self.config["sizes"][self.architecture],
            "precision": precision,
            "data": [{"pairs": _contents(items)} for _, items in data],
            "initial": None if initial is None else initial.key,
            "updates": updates,
            "learning_rate": self.learning_rate(factor),
            "seed": seed,
        }
        parts = ({"dir": p.dir, "split": None, "ids": [i.id for i in items]} for p, items in data)
        return Cell(inputs, tuple(parts), initial)


def open_recipe(
    architecture: str, preset: str, overlay: Mapping[str, Any], schema: LabelSchema
) -> Recipe:
    """Read the training config of a network.

    Args:
        architecture: of the network.
        preset: of its size and training.
        overlay: further values by config key, of train.yaml.
        schema: of all masks.

    Raises:
        MedpairError: for an unknown preset, or a key that train.yaml does not have.
    """
    folder = Path(bundle_root())
    file = folder / "presets" / f"{preset}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise MedpairError(f"--preset: {preset!r} is unknown; choose {known}")
    parser = ConfigParser(ConfigParser.load_config_files([folder / "configs" / "train.yaml", file]))
    for key, value in overlay.items():
        if key.replace("#", "::").split("::")[0] not in parser.get():
            raise MedpairError(f"overlay: train.yaml has no key {key!r}; correct it")
        parser[key] = value
    return Recipe(architecture, preset, dict(overlay), dict(parser.get()), schema)


class Workshop:
    """Makes cells in a folder.

    Args:
        folder: gets a folder per cell.
        log: file for seconds and memory, a line per cell.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log

    def train(self, cell: Cell, recipe: Recipe) -> Path:
        """Return the weight file of a training, which is run where it is not finished.

        Raises:
            MedpairError: for data or initial weights that do not fit.
        """
        room = self.folder / cell.key
        weights = room / "model.pt"
        if not _is_trained(room):
            usage = Usage()
            write_json(room / "parts.json", list(cell.parts))
            overrides = self._overrides(cell, recipe, room)
            with plain_errors():
                open_workflow(bundle_root(), "train", recipe.preset, overrides).run()
            _finish(room, cell.inputs, weights_sha256=sha256(weights))
            append_jsonl(self.log, {"cell": cell.key, "kind": "training", **usage.measured()})
        shutil.rmtree(room / "checkpoints", ignore_errors=True)
        return weights

    def score(
        self, cell: Cell, recipe: Recipe, pool: Pool, items: Sequence[Item], tolerance: float
    ) -> dict[str, dict[str, Scores]]:
        """Return the scores of a trained network, which are measured where they are not there.

        Args:
            cell: the training, finished.
            recipe: of its network.
            pool: the test set.
            items: the cases of it.
            tolerance: distance in mm up to which surfaces agree.

        Returns:
            By case: what `score_masks` returns.
        """
        inputs = {
            "format": FORMAT,
            "kind": "scores",
            "versions": versions("medpair", "torch", "monai"),
            "cell": cell.key,
            "cases": _contents(items),
            "ids": [item.id for item in items],
            "groups": {name: list(ids) for name, ids in recipe.schema.groups.items()},
            "tolerance_mm": tolerance,
        }
        room = self.folder / key_of(inputs)
        file = room / "cell.json"
        if not file.is_file():
            usage = Usage()
            segment = self._segmenter(cell, recipe)
            found = {i.id: _score(segment, pool.pairset, i.id, tolerance) for i in items}
            _finish(room, inputs, scores=found)
            append_jsonl(self.log, {"cell": room.name, "kind": "scores", **usage.measured()})
        return dict(json.loads(file.read_text(encoding="utf-8"))["scores"])

    def _overrides(self, cell: Cell, recipe: Recipe, room: Path) -> dict[str, Any]:
        updates = cell.inputs["updates"]
        initial = cell.initial and str(self.folder / cell.initial.key / "model.pt")
        return {
            **recipe.overrides,
            **_network(recipe),
            "parts": str(room / "parts.json"),
            "validate::data": "@train#data",  # there, but never run
            "initial_weights": initial,
            "output_dir": str(room),
            "seed": cell.inputs["seed"],
            "max_iterations": updates,
            "train::batches::epoch_length": updates,  # one epoch: exactly so many updates
            "learning_rate": cell.inputs["learning_rate"],
            "val_interval": 0,
            "mlflow": False,
            "progress": False,
        }

    def _segmenter(self, cell: Cell, recipe: Recipe) -> Callable[[Tensor], Tensor]:
        known = ConfigParser.load_config_file(
            str(Path(bundle_root()) / "configs" / "inference.yaml")
        )
        shared = {
            key: value
            for key, value in recipe.overrides.items()
            if key.replace("#", "::").split("::")[0] in known
        }
        weights = str(self.folder / cell.key / "model.pt")
        overrides = {**shared, **_network(recipe), "weights": weights}
        workflow = open_workflow(bundle_root(), "inference", recipe.preset, overrides)
        with plain_errors():
            segment: Callable[[Tensor], Tensor] = workflow.parser.get_parsed_content("segment")
        return segment


def key_of(inputs: Mapping[str, Any]) -> str:
    """Return the name of the folder of a cell with these inputs."""
    return hashlib.sha256(_stable(inputs)).hexdigest()[:16]


def _stable(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode("utf-8")


def _contents(items: Sequence[Item]) -> list[str]:
    return ["+".join(item.content) for item in items]


def _network(recipe: Recipe) -> dict[str, Any]:
    return {
        "preset": recipe.preset,
        "architecture": recipe.architecture,
        "schema": recipe.schema.name,
        "num_classes": recipe.schema.num_classes,
    }


def _is_trained(room: Path) -> bool:
    card, weights = room / "cell.json", room / "model.pt"
    if not card.is_file() or not weights.is_file():
        return False
    content = json.loads(card.read_text(encoding="utf-8"))
    return bool(content["weights_sha256"] == sha256(weights))


def _finish(room: Path, inputs: Mapping[str, Any], **results: Any) -> None:
    write_json(room / "cell.json", json.loads(to_json({"inputs": dict(inputs), **results})))


def _score(
    segment: Callable[[Tensor], Tensor], pairset: PairSet, name: str, tolerance: float
) -> dict[str, Scores]:
    pair = pairset.read(name)
    image_VDHW = torch.from_numpy(2 * np.clip(pair.image, 0, 1) - 1)[None]
    mask = segment(image_VDHW)[0].numpy()
    return score_masks(mask, pair.label, pairset.schema, pairset.spacing, tolerance)
