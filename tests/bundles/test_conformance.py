"""What MONAI's own commands and the model zoo's rules say of every bundle."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out
from torch import Tensor, nn

from common.bundles import bundles, bundles_dir
from common.data.phantom import make_phantom
from common.networks.single import SingleInput
from common.stages import open_workflow

BUNDLES = bundles()
GENERATIVE = [name for name in BUNDLES if name != "segmentation_eval"]
OF_MASKS = [name for name in GENERATIVE if name != "mcdpm_mask"]
SCHEMA = Path(__file__).parent / "schema" / "meta_schema_20240725.json"  # MONAI's
SHA256 = hashlib.sha256(SCHEMA.read_bytes()).hexdigest()
LARGE = 25 * 2**20
SECTIONS = (r"model overview", r"data", r"performance", r"licence|license|reference")


def metadata(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (bundles_dir() / name / "configs" / "metadata.json").read_text(encoding="utf-8")
    )
    return content


def files(name: str) -> dict[str, str]:
    """What MONAI's commands are given."""
    root = bundles_dir() / name
    return {
        "meta_file": str(root / "configs" / "metadata.json"),
        "config_file": str(root / "configs" / "inference.yaml"),
        "bundle_root": str(root),
    }


def verify(meta_file: str, folder: Path) -> None:
    """Compare metadata with the schema, which is not downloaded where it lies in place."""
    shutil.copy(SCHEMA, folder)
    path = folder / SCHEMA.name
    verify_metadata(meta_file, filepath=path, hash_val=SHA256, hash_type="sha256")


@pytest.mark.parametrize("name", BUNDLES)
def test_metadata_keep_the_schema(name: str, tmp_path: Path) -> None:
    assert metadata(name)["schema"].endswith(SCHEMA.name)
    verify(files(name)["meta_file"], tmp_path)


def test_metadata_that_break_the_schema_are_found(tmp_path: Path) -> None:
    broken = metadata(BUNDLES[0])
    del broken["network_data_format"]["outputs"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(ValueError, match="outputs"):
        verify(str(tmp_path / "metadata.json"), tmp_path)


@pytest.mark.parametrize("name", BUNDLES)
def test_the_zoo_can_pin_what_a_bundle_wants(name: str) -> None:
    content = metadata(name)
    pins = {key: content[f"{key}_version"] for key in ("monai", "pytorch", "numpy")}
    pins |= content.get("required_packages_version", {})
    pins |= content.get("optional_packages_version", {})
    assert all(re.fullmatch(r"\d+(\.\d+)*", version) for version in pins.values()), pins
    assert "common" not in pins
    assert content["version"] in content["changelog"]


@pytest.mark.parametrize("name", BUNDLES)
def test_the_files_that_the_zoo_wants_are_there(name: str) -> None:
    root = bundles_dir() / name
    for path in ("LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt"):
        assert (root / path).is_file(), path
    heads = re.findall(r"^#+ (.*)", (root / "docs" / "README.md").read_text(), re.MULTILINE)
    for section in SECTIONS:
        assert any(re.search(section, head.lower()) for head in heads), section
    large = [p for p in root.rglob("*") if p.is_file() and p.stat().st_size > LARGE]
    assert not large, "list them in large_files.yml with their sha256"
    for config in (root / "configs").iterdir():
        assert config.is_file()
        assert not re.search(r"/(home|Users|root)/\w", config.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", BUNDLES)
def test_the_network_takes_and_gives_what_the_metadata_say(name: str) -> None:
    verify_net_in_out(net_id="network_def", **files(name))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
@pytest.mark.parametrize("name", BUNDLES)
def test_the_weights_export_to_torchscript(name: str, tmp_path: Path, one_thread: None) -> None:
    weights, exported = bundles_dir() / name / "models" / "model.pt", tmp_path / "model.ts"
    ckpt_export("network_def", str(exported), str(weights), **files(name))
    network = shipped(name)
    size: tuple[int, ...] = (1, 48, 40, 40)
    if isinstance(network, SingleInput):
        told = metadata(name)["network_data_format"]["inputs"]["image"]
        size = network.single_size
        assert size == (told["num_channels"], *told["spatial_shape"])
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            torch.jit.load(str(exported))(image), network(image), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("name", BUNDLES)
def test_inference_has_the_properties_that_monai_asks_for(name: str, tmp_path: Path) -> None:
    changes = {"device": "cpu", "output_dir": str(tmp_path)}
    assert not open_workflow(name, "inference", "tiny", changes).check_properties()


@pytest.mark.parametrize("pipeline", ["medgen3d", "gem3d"])
def test_viewers_get_the_grid_of_the_preset(pipeline: str) -> None:
    """What a study is resampled to is what the preset's weights are trained at."""
    content = yaml.safe_load((bundles_dir() / f"{pipeline}.yaml").read_text(encoding="utf-8"))
    names = (
        ("mcdpm_mask", "vid2vid_image", "sdm_refiner")
        if pipeline == "medgen3d"
        else ("gem3d_volume",)
    )
    for preset, geometry in content["presets"].items():
        for name in names:
            parser = open_workflow(name, "inference", preset, {"device": "cpu"}).parser
            for key, wanted in (("volume_size", "size"), ("spacing", "spacing")):
                assert parser.get_parsed_content(key) == geometry[wanted], (name, preset, key)


def shipped(name: str) -> nn.Module:
    """The network with the weights that ship, on the CPU in fp32."""
    workflow = open_workflow(name, "inference", "tiny", {"device": "cpu"})
    network: nn.Module = workflow.parser.get_parsed_content("network")
    return network.float().eval()


@pytest.mark.parametrize("name", OF_MASKS)
def test_one_pass_over_a_mask_shows_its_tissues(name: str) -> None:
    _, label = make_phantom("brain4", (48, 40, 40), 0)
    mask = torch.from_numpy(label)[None, None]
    network = shipped(name)
    with torch.no_grad():
        image: Tensor = network(mask.float())
    assert image.shape == mask.shape
    cortex, white, csf = (float(image[mask == value].median()) for value in (1, 3, 4))
    assert -1.05 < float(image[mask == 0].median()) < -0.95
    assert csf < cortex < white


def test_the_mask_denoiser_alone_is_its_noisiest_step_at_the_start() -> None:
    network = shipped("mcdpm_mask")
    image = torch.randn(2, 7, 6, 40, 40, generator=torch.Generator().manual_seed(0))
    steps, place = torch.full((2,), 999.0), torch.tensor([[0.0, 1 / 48]]).expand(2, 2)
    with torch.no_grad():
        assert torch.equal(
            network(image), network(image.transpose(1, 2), steps, place).transpose(1, 2)
        )
