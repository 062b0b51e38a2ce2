"""Weights of monai-generative, the package that moved into MONAI core, in our weight files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, SPADEDiffusionModelUNet
from torch import Tensor, nn

from common.bundles import bundles_dir
from common.data.datasets import load_arrays
from common.engines.weights import save_weights
from common.errors import MedpairError
from common.io.manifest import sha256
from common.networks.generative import core_weights
from common.stages import open_workflow, plain_errors

PARTS = {
    "mcdpm_mask": {"network": ("train", "network_def")},
    "sdm_refiner": {"network": ("train", "network_def")},
    "gem3d_volume": {
        "autoencoder": ("train_autoencoder", "autoencoder_def"),
        "slice_generator": ("train_slice_generator", "network_def"),
    },
}
"""What can be imported: config and key of the network, by bundle and part."""
USUAL = ("state_dict", "model", "network")
WRAPPERS = {
    "network": (*USUAL, "unet", "diffusion"),
    "autoencoder": (*USUAL, "autoencoder", "autoencoderkl"),
    "slice_generator": (*USUAL, "unet", "diffusion"),
}
"""Keys that a state dict may stand under, by part."""
LEAST = 1e-3
"""Of scale factors; weights are stored as fp16."""
FEW = 256
"""Slices that tell the spread of latents."""


@runtime_checkable
class OnLatents(Protocol):
    """A network that makes latents or works on them, and remembers their spread."""

    latent_std: Tensor


@runtime_checkable
class Encoder(OnLatents, Protocol):
    """An autoencoder of slices."""

    factor: int

    def fit_scale(self, image_N1HW: Tensor) -> None:
        """Set the spread from slices in [-1, 1]."""


def import_weights(
    source: str | Path,
    bundle: str,
    out: str | Path,
    *,
    part: str | None = None,
    preset: str = "monai",
    overrides: Mapping[str, Any] | None = None,
    data: str | None = None,
    scale_factor: float | None = None,
) -> Path:
    """Convert a checkpoint of monai-generative for a bundle.

    Args:
        source: `.pt` file of a state dict (bare, or under a usual key) of `AutoencoderKL`,
            `DiffusionModelUNet` or `SPADEDiffusionModelUNet`, of that package or of MONAI core.
        bundle: "mcdpm_mask", "sdm_refiner" or "gem3d_volume".
        out: the weight file to write; its card is written beside it.
        part: of gem3d_volume, "autoencoder" or "slice_generator".
        preset: the bundle's preset that describes the network; its sizes must be the checkpoint's.
        overrides: values by config key, where the preset's are not.
        data: pair set whose training slices tell the spread of an autoencoder's latents, where
            no imported network works on them.
        scale_factor: what ``LatentDiffusionInferer`` multiplied the latents by, > 0; for an
            autoencoder and for the slice generator on its latents.

    Returns:
        The weight file.

    Raises:
        MedpairError: for a missing or foreign file, or a network of other sizes; nothing is
            written then.
    """
    chosen, (config, key) = _place(bundle, part)
    if not (bundles_dir() / bundle / "presets" / f"{preset}.yaml").is_file():
        raise MedpairError(f"--preset: {bundle} has no preset {preset!r}; monai is one")
    workflow = open_workflow(bundle, config, preset, dict(overrides or {}))
    network = _described(workflow, key, f"{bundle}, preset {preset}")
    inner = _monai_network(network, bundle, preset)
    state = _state(Path(source), chosen)
    inner.load_state_dict(_fitting(Path(source), state, inner))
    if isinstance(network, OnLatents):
        _set_scale(network, data, scale_factor)
    elif data is not None or scale_factor is not None:
        raise MedpairError(f"--data, --scale-factor: {bundle} has no latents; leave them out")
    _check_range(Path(source), network)
    schema = str(workflow.parser.get_parsed_content("schema"))
    card = {"schema": schema, "preset": preset, "imported": Path(source).name}
    save_weights(network, Path(out), card | {"imported_sha256": sha256(source)})
    return Path(out)


def _place(bundle: str, part: str | None) -> tuple[str, tuple[str, str]]:
    if bundle not in PARTS:
        raise MedpairError(f"bundle: {bundle!r}, wanted one of {', '.join(PARTS)}")
    parts = PARTS[bundle]
    chosen = next(iter(parts)) if part is None and len(parts) == 1 else part
    if chosen is None or chosen not in parts:
        raise MedpairError(f"--part: {part}, wanted {' or '.join(parts)} of {bundle}")
    return chosen, parts[chosen]


def _described(workflow: ConfigWorkflow, key: str, where: str) -> nn.Module:
    """Return the network that the config describes."""
    try:
        with plain_errors():
            network: nn.Module = workflow.parser.get_parsed_content(key)
    except (RuntimeError, TypeError, KeyError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:160]
        raise MedpairError(
            f"{where}: {key} makes no network ({reason}); correct the overlay"
        ) from error
    return network


def _monai_network(network: nn.Module, bundle: str, preset: str) -> nn.Module:
    kinds = (AutoencoderKL, DiffusionModelUNet, SPADEDiffusionModelUNet)
    found = [module for module in network.modules() if isinstance(module, kinds)]
    if len(found) != 1:
        raise MedpairError(
            f"preset {preset!r} of {bundle} holds {len(found)} networks of MONAI, wanted one; "
            "use --preset monai (of sdm_refiner: with views shared), or one made like it"
        )
    network_found: nn.Module = found[0]
    return network_found


def _state(path: Path, part: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise MedpairError(f"{path}: no such file; give a checkpoint of monai-generative")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a foreign file
        reason = " ".join(str(error).split())[:120]
        raise MedpairError(
            f"{path}: no file of plain weights ({reason}); save the state dict of its network"
        ) from error
    for key in WRAPPERS[part]:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    weights = isinstance(content, dict) and content
    if not weights or not all(isinstance(value, Tensor) for value in content.values()):
        raise MedpairError(f"{path}: holds no state dict, wanted one, bare or under a usual key")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _fitting(path: Path, state: dict[str, Tensor], inner: nn.Module) -> dict[str, Tensor]:
    known = inner.state_dict()
    named = core_weights(state, known)
    missing, foreign = sorted(known.keys() - named.keys()), sorted(named.keys() - known.keys())
    for found, what in ((missing, "lacks"), (foreign, "holds unknown")):
        if found:
            raise MedpairError(
                f"{path}: {what} {len(found)} entries of {type(inner).__name__}, {found[0]} for "
                "one; give the preset's network the checkpoint's levels, blocks and attention"
            )
    for name, value in named.items():
        if value.shape != known[name].shape:
            raise MedpairError(
                f"{path}: {name} has shape {tuple(value.shape)}, the preset's network "
                f"{tuple(known[name].shape)}; give it the checkpoint's channels"
            )
    return named


def _set_scale(network: OnLatents, data: str | None, scale_factor: float | None) -> None:
    if scale_factor is not None:
        if data is not None:
            raise MedpairError("--data and --scale-factor: both tell the spread; leave one out")
        if not LEAST <= scale_factor <= 1 / LEAST:
            raise MedpairError(
                f"--scale-factor: {scale_factor}, wanted {LEAST:g}..{1 / LEAST:g}; correct it"
            )
        network.latent_std.fill_(1 / scale_factor)
    elif data is not None and isinstance(network, Encoder):
        network.fit_scale(_slices(data, network.factor))
    else:
        also = ", or --data with a pair set" if isinstance(network, Encoder) else ""
        raise MedpairError(
            f"--scale-factor: none; want what the checkpoint's latents were multiplied by{also}"
        )


def _check_range(path: Path, network: nn.Module) -> None:
    largest = torch.finfo(torch.float16).max
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not float(value.abs().max()) <= largest:
            raise MedpairError(
                f"{path}: {name} holds numbers beyond {largest:g}, which fp16 cannot store; give "
                "weights of a training that went well"
            )


def _slices(data: str, factor: int) -> Tensor:
    volumes = load_arrays(data, "training").images
    sizes = sorted({volume.shape[1:] for volume in volumes})
    if len(sizes) > 1:
        raise MedpairError(
            f"{data}: slices of {len(sizes)} sizes ({sizes[0]}, {sizes[1]}), wanted one; prepare "
            "them with --size"
        )
    slices = torch.cat([torch.from_numpy(volume) for volume in volumes])
    slices = slices[:: max(1, len(slices) // FEW)]
    height, width = (n - n % factor for n in slices.shape[1:])
    return 2 * slices[:, None, :height, :width].clamp(0, 1) - 1
