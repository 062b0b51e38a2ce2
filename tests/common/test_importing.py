"""Checkpoints of monai-generative run in our networks and give what they gave there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, SPADEDiffusionModelUNet
from torch import Tensor, nn
from typer.testing import CliRunner

from common.cli import app
from common.data.datasets import Arrays
from common.data.labels import load_schema
from common.errors import MedpairError
from common.importing import import_weights
from common.networks.generative import core_weights
from common.stages import open_workflow

PHANTOMS = "phantom:brain4:24x20x20:2"
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "num_res_blocks": 1,
    "norm_num_groups": 8,
    "num_head_channels": 8,
    "attention_levels": (False, True),
}
CONTEXT = {"with_conditioning": True, "cross_attention_dim": 128}
MCDPM = {
    "network_def::channels": [16, 32],
    "network_def::attention_levels": [False, True],
    "network_def::options": {"norm_num_groups": 8, "num_head_channels": 8},
}
SDM = {
    "network_def::channels": [16, 32],
    "network_def::attention_levels": [False, True],
    "network_def::norm_num_groups": 8,
    "network_def::num_head_channels": 8,
    "network_def::spade_intermediate_channels": 16,
}
SLICES = {
    "slice_generator_channels": [16, 32],
    "slice_generator_options": {
        "norm_num_groups": 8,
        "num_head_channels": 8,
        "attention_levels": [False, True],
    },
}
ENCODER = {
    "autoencoder_channels": [16, 16, 32],
    "latent_channels": 3,
    "autoencoder_options": {
        "norm_num_groups": 8,
        "attention_levels": [False, False, True],
        "with_encoder_nonlocal_attn": True,
        "with_decoder_nonlocal_attn": True,
    },
}
INVERSE = (  # names of monai-generative 0.2.3, as listed by its networks' state dicts
    (r"attn\.out_proj\.", "proj_attn."),
    (r"(attentions\.\d+|middle_block\.attention|coder\.blocks\.\d+)\.attn\.(to_[qkv])", r"\1.\2"),
    (r"(transformer_blocks\.\d+\.attn\d)\.out_proj\.", r"\1.to_out.0."),
    (r"postconv\.", "conv."),
    (r"param_free_norm\.(weight|bias)", r"param_free_norm.N.\1"),
)


def old_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Core's weights by the names of monai-generative."""
    named = {}
    for name, value in state.items():
        for new, old in INVERSE:
            name = re.sub(new, old, name)
        named[name] = value
    return named


def randomised(network: nn.Module) -> nn.Module:
    """Random values everywhere: the output layers start at zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network.eval()


def core(kind: str) -> nn.Module:
    """The networks of MONAI core that the overlays above describe."""
    made: dict[str, Any] = {
        "mcdpm": lambda: DiffusionModelUNet(
            in_channels=42, out_channels=36, channels=(16, 32), **SMALL, **CONTEXT
        ),
        "slices": lambda: DiffusionModelUNet(
            in_channels=16, out_channels=16, channels=(16, 32), **SMALL, **CONTEXT
        ),
        "plain": lambda: DiffusionModelUNet(
            in_channels=42, out_channels=36, channels=(16, 32), **SMALL
        ),
        "sdm": lambda: SPADEDiffusionModelUNet(
            in_channels=1, out_channels=1, label_nc=6, channels=(16, 32), num_class_embeds=3,
            spade_intermediate_channels=16, **SMALL,
        ),
        "autoencoder": lambda: AutoencoderKL(
            spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 16, 32),
            num_res_blocks=(1, 1, 1), latent_channels=3, norm_num_groups=8,
            attention_levels=(False, False, True),
        ),
    }  # fmt: skip
    network: nn.Module = made[kind]()
    return randomised(network)


CASES = [
    ("mcdpm", "mcdpm_mask", None, MCDPM),
    ("plain", "mcdpm_mask", None, MCDPM | {"network_def::position": "none"}),
    ("sdm", "sdm_refiner", None, SDM),
    ("slices", "gem3d_volume", "slice_generator", SLICES),
    ("autoencoder", "gem3d_volume", "autoencoder", ENCODER),
]


def scale_of(part: str | None) -> dict[str, Any]:
    return {} if part is None else {"scale_factor": 0.5}


def imported(bundle: str, part: str | None, overlay: dict[str, Any], weights: Path) -> nn.Module:
    """Our network with imported weights."""
    config = {"autoencoder": "train_autoencoder", "slice_generator": "train_slice_generator"}
    key = "autoencoder_def" if part == "autoencoder" else "network_def"
    workflow = open_workflow(bundle, config.get(str(part), "train"), "monai", overlay)
    network: nn.Module = workflow.parser.get_parsed_content(key)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def outputs(network: nn.Module, kind: str) -> Tensor:
    """What one of our networks says of fixed inputs."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    times = torch.tensor([3.0, 700.0])
    with torch.no_grad():
        if kind in ("mcdpm", "plain"):
            return network(draw(2, 6, 7, 16, 16), times, torch.tensor([[0.1, 0.02], [0.5, 0.02]]))
        if kind == "slices":
            return network(draw(2, 16, 8, 8), times, torch.tensor([0.1, 0.6]))
        if kind == "sdm":
            mask = torch.nn.functional.one_hot(torch.arange(512).view(2, 16, 16) % 6, 6)
            seen = mask.permute(0, 3, 1, 2).float()
            return network(draw(2, 1, 16, 16), times, seen, torch.zeros(2, 2), "coronal")
        return network.decode(network.encode(draw(2, 1, 16, 16)))


@pytest.mark.parametrize(("kind", "bundle", "part", "overlay"), CASES)
def test_imported_weights_are_those_of_the_checkpoint(
    kind: str, bundle: str, part: str | None, overlay: dict[str, Any], tmp_path: Path
) -> None:
    network = core(kind)
    source, out = tmp_path / "old.pt", tmp_path / "new" / "model.pt"
    torch.save({"state_dict": old_names(network.state_dict())}, source)
    assert (
        import_weights(source, bundle, out, part=part, overrides=overlay, **scale_of(part)) == out
    )
    ours = imported(bundle, part, overlay, out)
    (inner,) = (module for module in ours.modules() if type(module) is type(network))
    unused = old_names(network.state_dict()).items()
    unused = {n for (o, _), n in zip(unused, network.state_dict(), strict=True) if "proj_attn" in o}
    for name, value in network.state_dict().items():
        if name in unused:
            value = torch.eye(len(value)) if value.ndim == 2 else torch.zeros(len(value))
        torch.testing.assert_close(inner.state_dict()[name], value.half().float())
    assert outputs(ours, kind).std() > 0
    card = json.loads(out.with_suffix(".json").read_text())
    assert (card["schema"], card["preset"], card["imported"]) == ("brain4", "monai", "old.pt")
    if part is not None:
        assert torch.equal(ours.latent_std, torch.full_like(ours.latent_std, 2.0))  # type: ignore[arg-type]


@pytest.mark.optional_tool("monai-generative")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "bundle", "part", "overlay"), CASES)
def test_outputs_equal_those_of_monai_generative(
    kind: str, bundle: str, part: str | None, overlay: dict[str, Any], tmp_path: Path
) -> None:
    nets = pytest.importorskip("generative.networks.nets")
    theirs = of_generative(nets, kind)
    source, out = tmp_path / "old.pt", tmp_path / "model.pt"
    torch.save(theirs.state_dict(), source)
    import_weights(source, bundle, out, part=part, overrides=overlay, **scale_of(part))
    ours = imported(bundle, part, overlay, out)
    # the same weights, rounded to fp16 as they are stored
    theirs.load_state_dict({k: v.half().float() for k, v in theirs.state_dict().items()})
    (inner,) = (m for m in ours.modules() if type(m).__name__ == type(theirs).__name__)
    generator = torch.Generator().manual_seed(2)
    times = torch.tensor([3, 700])
    with torch.no_grad():
        if kind == "autoencoder":
            image = torch.randn(2, 1, 16, 16, generator=generator)
            for wanted, found in zip(theirs.encode(image), inner.encode(image), strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
            latent = theirs.encode(image)[0]
            torch.testing.assert_close(
                inner.decode(latent), theirs.decode(latent), atol=1e-5, rtol=1e-4
            )
            return
        channels = {"slices": 16, "sdm": 1}.get(kind, 42)
        words: dict[str, Any] = {
            "x": torch.randn(2, channels, 16, 16, generator=generator),
            "timesteps": times,
        }
        if kind in ("mcdpm", "slices"):
            words["context"] = torch.randn(2, 2, 128, generator=generator)
        if kind == "sdm":
            words["seg"] = torch.rand(2, 6, 16, 16, generator=generator)
            words["class_labels"] = torch.tensor([0, 2])
        wanted = theirs(**words)
        torch.testing.assert_close(inner(**words), wanted, atol=1e-5, rtol=1e-4)
        assert wanted.std() > 0


def of_generative(nets: ModuleType, kind: str) -> nn.Module:
    """The same networks of monai-generative."""
    small = SMALL | {"num_channels": (16, 32)}
    if kind == "autoencoder":
        return randomised(
            nets.AutoencoderKL(
                spatial_dims=2, in_channels=1, out_channels=1, num_channels=(16, 16, 32),
                num_res_blocks=(1, 1, 1), latent_channels=3, norm_num_groups=8,
                attention_levels=(False, False, True),
            )
        )  # fmt: skip
    if kind == "sdm":
        return randomised(
            nets.SPADEDiffusionModelUNet(
                in_channels=1, out_channels=1, label_nc=6, num_class_embeds=3,
                spade_intermediate_channels=16, **small,
            )
        )  # fmt: skip
    width = {"slices": (16, 16)}.get(kind, (42, 36))
    context = {} if kind == "plain" else CONTEXT
    return randomised(
        nets.DiffusionModelUNet(in_channels=width[0], out_channels=width[1], **small, **context)
    )


def test_names_of_core_stay() -> None:
    state = core("sdm").state_dict()
    assert core_weights(state, state) == state


def test_the_spread_of_latents_comes_from_scans(tmp_path: Path) -> None:
    torch.save(core("autoencoder").state_dict(), tmp_path / "old.pt")
    out = tmp_path / "model.pt"
    import_weights(
        tmp_path / "old.pt", "gem3d_volume", out, part="autoencoder", overrides=ENCODER,
        data=PHANTOMS,
    )  # fmt: skip
    spread = torch.load(out, weights_only=True)["latent_std"]
    assert (spread > 0).all()
    assert not torch.equal(spread, torch.ones_like(spread))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bundle": "vid2vid_image"}, "bundle: 'vid2vid_image', wanted one of mcdpm_mask"),
        ({"bundle": "gem3d_volume"}, "--part: None, wanted autoencoder or slice_generator"),
        ({"overrides": {}}, "old.pt: lacks .* entries of DiffusionModelUNet"),
        (
            {"overrides": MCDPM | {"network_def::chanels": [16, 32]}},
            "network_def makes no network .*chanels",
        ),
        (
            {"overrides": MCDPM | {"network_def::options": {"num_head_channels": 128}}},
            "makes no network",
        ),
        ({"preset": "monia"}, "--preset: mcdpm_mask has no preset 'monia'"),
        ({"scale_factor": 0.5}, "mcdpm_mask has no latents"),
        ({"data": PHANTOMS}, "mcdpm_mask has no latents"),
        (
            {"overrides": MCDPM | {"network_def::channels": [16, 48]}},
            r"has shape \(\d+.*the preset's network",
        ),
        ({"preset": "small", "overrides": {}}, "holds 0 networks of MONAI"),
        (
            {"bundle": "gem3d_volume", "part": "slice_generator", "overrides": SLICES},
            "has shape .* the preset's network",
        ),
        ({"source": "none.pt"}, "none.pt: no such file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    torch.save(core("mcdpm").state_dict(), tmp_path / "old.pt")
    words: dict[str, Any] = {"source": "old.pt", "bundle": "mcdpm_mask", "overrides": MCDPM}
    words |= change
    source, out = tmp_path / words.pop("source"), tmp_path / "model.pt"
    with pytest.raises(MedpairError, match=says) as caught:
        import_weights(source, words.pop("bundle"), out, **words)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [({"epoch": 3}, "holds no state dict"), ([1, 2], "holds no state dict"), (None, "plain")],
)
def test_foreign_files_are_named(content: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(content, path) if content is not None else path.write_text("no weights")
    with pytest.raises(MedpairError, match=says):
        import_weights(path, "mcdpm_mask", tmp_path / "model.pt")


def test_latents_want_their_scale(tmp_path: Path) -> None:
    torch.save(core("slices").state_dict(), tmp_path / "old.pt")
    with pytest.raises(MedpairError, match="--scale-factor: none; want what"):
        import_weights(
            tmp_path / "old.pt", "gem3d_volume", tmp_path / "new.pt", part="slice_generator",
            overrides=SLICES, data=PHANTOMS,
        )  # fmt: skip
    assert not (tmp_path / "new.pt").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale_factor": 1e9}, "--scale-factor: 1000000000.0, wanted 0.001..1000"),
        ({"scale_factor": -1.0}, "--scale-factor: -1.0"),
        ({"scale_factor": 1.0, "data": PHANTOMS}, "both tell the spread"),
    ],
)
def test_spreads_that_cannot_be_say_so(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    torch.save(core("autoencoder").state_dict(), tmp_path / "old.pt")
    with pytest.raises(MedpairError, match=says):
        import_weights(
            tmp_path / "old.pt", "gem3d_volume", tmp_path / "new.pt", part="autoencoder",
            overrides=ENCODER, **change,
        )  # fmt: skip
    assert not (tmp_path / "new.pt").exists()


def test_slices_of_several_sizes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(*_: Any) -> Arrays:
        volumes = [np.zeros((4, 8, n), np.float32) for n in (8, 12)]
        return Arrays(("a", "b"), volumes, [], load_schema("brain4"))

    monkeypatch.setattr("common.importing.load_arrays", mixed)
    torch.save(core("autoencoder").state_dict(), tmp_path / "old.pt")
    with pytest.raises(MedpairError, match="slices of 2 sizes"):
        import_weights(
            tmp_path / "old.pt", "gem3d_volume", tmp_path / "new.pt", part="autoencoder",
            overrides=ENCODER, data="set",
        )  # fmt: skip


def test_numbers_that_fp16_cannot_store_are_refused(tmp_path: Path) -> None:
    state = core("mcdpm").state_dict()
    state["conv_in.conv.weight"][0, 0, 0, 0] = 1e6
    torch.save(state, tmp_path / "old.pt")
    with pytest.raises(MedpairError, match="numbers beyond 65504"):
        import_weights(tmp_path / "old.pt", "mcdpm_mask", tmp_path / "new.pt", overrides=MCDPM)


def test_the_part_chooses_its_weights(tmp_path: Path) -> None:
    both = {"unet": core("slices").state_dict(), "autoencoder": core("autoencoder").state_dict()}
    torch.save(both, tmp_path / "old.pt")
    for part, overlay in (("slice_generator", SLICES), ("autoencoder", ENCODER)):
        import_weights(
            tmp_path / "old.pt", "gem3d_volume", tmp_path / f"{part}.pt", part=part,
            overrides=overlay, scale_factor=1.0,
        )  # fmt: skip


def test_the_command(tmp_path: Path) -> None:
    torch.save(core("mcdpm").state_dict(), tmp_path / "old.pt")
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump(MCDPM))
    words = [str(tmp_path / "old.pt"), "mcdpm_mask", "--out", str(tmp_path / "model.pt")]
    result = CliRunner().invoke(
        app, ["import-weights", *words, "--overlay", str(tmp_path / "sizes.yaml")]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model.pt").is_file()
