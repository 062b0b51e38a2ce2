"""Networks that run with all of their weights or not at all."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.errors import MedpairError

SHOWN = 3


def refuse_misfits(network: nn.Module) -> None:
    """Let a network refuse weights that do not fit, also where they are loaded with strict=False.

    MONAI Label loads so: a file of another form, {"state_dict": ...} for example, would leave the
    network as it was made, and random weights would run.

    Args:
        network: raises MedpairError from now on when an entry is missing or unknown.
    """
    network.register_load_state_dict_post_hook(_refuse)


def _refuse(network: nn.Module, keys: Any) -> None:
    faults = [("lacks", keys.missing_keys), ("holds unknown", keys.unexpected_keys)]
    found = [f"{what} {_shown(names)}" for what, names in faults if names]
    if found:
        raise MedpairError(
            f"weights of {type(network).__name__}: the file {' and '.join(found)}; give a bare "
            "state dict of this network, as the trainings write it"
        )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
