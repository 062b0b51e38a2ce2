"""Extractors: positions of slices and views, foreground, weights from files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet50
from torch import Tensor, nn

from common.errors import MedpairError
from common.metrics.extractors import MapExtractor, SliceNetwork, open_slice_network, views


def pooled(image_VDHW: Tensor) -> Tensor:
    """A feature map of half the size: the local mean, and a constant."""
    mean = nn.functional.avg_pool3d(image_VDHW[:, None], 2)
    return torch.cat([mean, torch.full_like(mean, 7.0)], 1)


@pytest.fixture
def ramp() -> np.ndarray:
    """An image that rises with the slice number along D only."""
    return np.linspace(0, 1, 12, dtype=np.float32)[:, None, None] * np.ones((12, 8, 10), np.float32)


@pytest.fixture
def box() -> np.ndarray:
    label = np.zeros((12, 8, 10), np.uint8)
    label[3:7, 2:8, 0:10] = 1  # positions 1..3 of 6 along D, 1..3 of 4 along H, all along W
    return label


def test_views_follow_the_slice_axis() -> None:
    assert views("AP") == ("C", "A", "S")
    assert views("SI") == ("A", "C", "S")


@pytest.mark.parametrize("axis", ["AP", "SI"])
def test_each_position_of_the_map_with_foreground_is_a_sample(axis, ramp, box) -> None:
    found = MapExtractor(pooled, "toy")(ramp, box, axis)
    along_d, along_h, along_w = (found[view] for view in views(axis))
    assert [len(rows) for rows in (along_d, along_h, along_w)] == [3, 3, 5]
    steps = 2 * np.linspace(0, 1, 12) - 1
    np.testing.assert_allclose(along_d[:, 0], steps.reshape(6, 2).mean(1)[1:4], atol=1e-6)
    np.testing.assert_allclose(along_h[:, 0], np.full(3, steps.mean()), atol=1e-6)
    np.testing.assert_array_equal(along_w[:, 1], np.full(5, 7.0))


def test_intensities_reach_the_network_in_minus_1_to_1(box) -> None:
    seen = []
    extractor = MapExtractor(lambda x: seen.append(x) or x[:, None], "identity")
    extractor(np.linspace(-1, 2, box.size, dtype=np.float32).reshape(box.shape), box, "SI")
    assert (seen[0].min(), seen[0].max(), tuple(seen[0].shape)) == (-1, 1, (1, *box.shape))


def test_an_empty_mask_gives_no_samples(ramp, box) -> None:
    found = MapExtractor(pooled, "toy")(ramp, np.zeros_like(box), "SI")
    assert {rows.shape for rows in found.values()} == {(0, 2)}


def test_a_map_without_three_axes_is_refused(ramp, box) -> None:
    with pytest.raises(MedpairError, match=r"toy gives \(1, 12\), \(1, C, d, h, w\) wanted"):
        MapExtractor(lambda x: x.mean((2, 3)), "toy")(ramp, box, "SI")


class Channels(nn.Module):
    """A slice network that returns its input as a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_slice_network_sees_normalised_squares_of_its_size(ramp, box) -> None:
    network = SliceNetwork(Channels(), "toy", size=10, mean=(0.0, 0.5, 0), std=(1, 0.5, 2), batch=3)
    found = network(ramp, box, "SI")
    assert {view: rows.shape for view, rows in found.items()} == {
        "A": (4, 3),
        "C": (6, 3),
        "S": (10, 3),
    }
    # an 8 x 10 slice is padded with black to 10 x 10
    grey = np.linspace(0, 1, 12)[3:7] * 0.8
    np.testing.assert_allclose(found["A"][:, 0], grey, atol=1e-6)
    np.testing.assert_allclose(found["A"][:, 1], (grey - 0.5) / 0.5, atol=1e-6)
    np.testing.assert_allclose(found["A"][:, 2], grey / 2, atol=1e-6)


def test_single_slices_have_the_features_that_they_have_in_a_volume(ramp, box) -> None:
    network = SliceNetwork(Channels(), "toy", size=8)
    found = network.of_slices(ramp[3:7])
    np.testing.assert_array_equal(found, network(ramp, box, "SI")["A"])
    np.testing.assert_array_equal(network.of_slices(9 + ramp[:2]), network.of_slices(ramp[:2] ** 0))


def test_a_slice_network_without_slices_gives_no_samples(ramp, box) -> None:
    found = SliceNetwork(Channels(), "toy", size=8)(ramp, np.zeros_like(box), "SI")
    assert all(len(rows) == 0 for rows in found.values())


def test_torchscript_of_any_network_is_opened(tmp_path: Path, ramp, box) -> None:
    path = tmp_path / "channels.pt"
    torch.jit.save(torch.jit.trace(Channels(), torch.zeros(1, 3, 8, 8)), str(path))
    network = open_slice_network(path, size=8)
    assert network.name == "channels"
    wanted = SliceNetwork(Channels(), "toy", size=8)(ramp, box, "SI")
    np.testing.assert_allclose(network(ramp, box, "SI")["C"], wanted["C"])


RADIMAGENET = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def test_resnet_weights_are_read_by_both_families_of_names(tmp_path: Path, ramp, box) -> None:
    torch.manual_seed(0)
    options = {"n_input_channels": 3, "bias_downsample": False, "feed_forward": False}
    network = resnet50(spatial_dims=2, **options)
    assert sum(p.numel() for p in network.parameters()) == 23_508_032  # torchvision's without fc
    state = network.state_dict()
    plain = state | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(plain, tmp_path / "torchvision.pt")
    renamed = {
        f"backbone.{RADIMAGENET[first]}.{rest}": value
        for first, rest, value in ((*key.split(".", 1), value) for key, value in state.items())
    }
    torch.save(renamed, tmp_path / "rad.pt")
    found = [
        open_slice_network(tmp_path / name, size=32)(ramp, box, "SI")["A"]
        for name in ("torchvision.pt", "rad.pt")
    ]
    assert found[0].shape == (4, 2048)
    assert np.ptp(found[0], axis=0).max() > 0
    np.testing.assert_array_equal(*found)


def test_without_a_path_there_is_a_reason_and_a_wrong_file_is_refused(tmp_path: Path) -> None:
    reason = open_slice_network(None)
    assert reason == "not computed: no weights of a slice network are given"
    with pytest.raises(MedpairError, match="no such weight file"):
        open_slice_network(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(MedpairError, match="neither TorchScript nor a ResNet-50 state dict"):
        open_slice_network(tmp_path / "text.pt")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(MedpairError, match="Missing key"):
        open_slice_network(tmp_path / "other.pt")
