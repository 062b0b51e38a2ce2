"""Weight files: a bare fp16 state dict, and beside it a JSON that says what it belongs to.

Large ones are in shards, see `common.engines.shards`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from common.engines.budget import budget_of, once_at
from common.engines.device import on_device
from common.engines.shards import ShardError, copy_state, read_state, save_state
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.manifest import sha256

HALF = "half"
"""Folder of the weights at half time, beside the final ones."""


def save_weights(network: nn.Module, path: Path, card: Mapping[str, Any]) -> None:
    """Write a network's weights in fp16 and their card ``<stem>.json``.

    Args:
        network: its state dict is written, floating tensors as fp16.
        path: the ``.pt`` file.
        card: what they belong to; ``schema`` and ``preset`` are checked on loading.
    """
    state = {
        key: value.detach().cpu().half() if value.is_floating_point() else value.detach().cpu()
        for key, value in network.state_dict().items()
    }
    save_state(state, path)
    write_json(path.with_suffix(".json"), {**card, "sha256": sha256(path)})


def read_card(path: Path) -> dict[str, Any]:
    """Return the card of a weight file, empty where there is none."""
    card = path.with_suffix(".json")
    return dict(json.loads(card.read_text(encoding="utf-8"))) if card.exists() else {}


def load_weights(
    network: nn.Module,
    path: str | Path,
    *,
    schema: str | None = None,
    preset: str | None = None,
    device: str | torch.device = "cpu",
    may_lack: Collection[str] = (),
) -> nn.Module:
    """Load a weight file strictly into a network, in eval mode.

    Args:
        network: receives the weights, as float32.
        path: the ``.pt`` file.
        schema: wanted label schema, compared with the card.
        preset: wanted preset, compared with the card.
        device: where the network goes.
        may_lack: entries of the state dict that stay as they are where the file lacks them.

    Raises:
        MedpairError: if the file is missing, damaged, or of another schema, preset or network.
    """
    path = Path(path)
    if not path.is_file():
        raise MedpairError(f"{path}: no such weight file; train it or give another --weights")
    card = read_card(path)
    for key, wanted in (("schema", schema), ("preset", preset)):
        if wanted is not None and card.get(key, wanted) != wanted:
            raise MedpairError(
                f"{path}: weights of {key} {card[key]!r}, wanted {wanted!r}; "
                f"use --{key} {card[key]} or weights trained for {wanted}"
            )
    if card.get("sha256") not in (None, sha256(path)):
        raise MedpairError(f"{path}: sha256 differs from {path.stem}.json; fetch the file again")
    try:
        state = read_state(path)
        kept = {k: v for k, v in network.state_dict().items() if k in may_lack}
        network.load_state_dict({**kept, **state})
    except ShardError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise MedpairError(
            f"{path}: does not fit this network ({reason}); use weights of this preset and schema"
        ) from error
    return network.to(device).eval()


def start_network(
    network: nn.Module,
    device: str | torch.device,
    schema: str,
    initial_weights: str | None = None,
    channels_last: bool = True,
    compile: bool | str = False,
) -> nn.Module:
    """Return a network ready for training.

    Args:
        network: with fresh weights.
        device: where it goes.
        schema: name of the label schema that it is trained for.
        initial_weights: weight file to start from; None keeps the fresh weights.
        channels_last: see `on_device`.
        compile: see `on_device`.

    Raises:
        MedpairError: for initial weights of another network or schema.
    """
    if initial_weights is not None:
        load_weights(network, initial_weights, schema=schema)
    return on_device(network, device, channels_last, compile).train()


def keep_weights(path: Path) -> None:
    """Copy a weight file and its card to ``<stem>_before``, where there is none yet."""
    kept = path.with_name(f"{path.stem}_before.pt")
    if path.is_file() and not kept.exists():
        card = path.with_suffix(".json")
        if card.is_file():
            shutil.copy(card, kept.with_suffix(".json"))
        copy_state(path, kept)


class ExportWeights:
    """Write the weights and their card when a training completes.

    With a budget they are also written when half of it is spent, to the folder ``half`` beside: to
    compare the two, since what remembers its scans more the longer it is trained is not the better.

    Args:
        network: what is written, usually the averaged network.
        path: the ``.pt`` file; None writes nothing.
        card: entries of the card; the iteration is added.
        keep: weights that lie at the path are kept as ``<stem>_before.pt``, unless others are, and
            nothing is written at half time.
        half: False writes nothing at half time, as for a part that only later trainings use; what
            completes such a network at the end may also be missing by then.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str | None,
        card: Mapping[str, Any],
        keep: bool = False,
        half: bool = True,
    ) -> None:
        self.network, self.card, self.keep = network, dict(card), keep
        self.half = half and not keep
        self.path = None if path is None else Path(path)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.path is None:
            return
        engine.add_event_handler(Events.COMPLETED, self._write, self.path)
        if self.half:
            half = self.path.parent / HALF / self.path.name
            once_at(engine, 0.5, partial(self._write, path=half), partial(_is_of, half))

    def written(self) -> nn.Module:
        """Return the network whose weights are written."""
        return self.network

    def _write(self, engine: Engine, path: Path) -> None:
        if self.keep:
            keep_weights(path)
        how: dict[str, Any] = {"iterations": engine.state.iteration}
        if (budget := budget_of(engine)) is not None:
            how["minutes"] = budget.minutes
        save_weights(self.written(), path, self.card | how)


def _is_of(path: Path, minutes: float) -> bool:
    """Return whether weights lie at a path that were written within such a budget."""
    return path.is_file() and read_card(path).get("minutes") == minutes
