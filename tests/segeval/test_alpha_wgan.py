"""3D-alpha-WGAN: sizes and ranges of its networks, signs and values of its losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.errors import MedpairError
from segeval.baselines.alpha_wgan import (
    CodeReader,
    VolumeGenerator,
    VolumeReader,
    crop_volume,
    pad_volume,
    padded_size,
)
from segeval.baselines.wgan import WganLoss, critic_loss, fooling, gradient_penalty

CHANNELS = (2, 3, 4, 5)
PUBLISHED = (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((48, 40, 40), (48, 48, 48)), ((64, 64, 64), (64, 64, 64)), ((1, 17, 33), (16, 32, 48))],
)
def test_volumes_are_padded_to_what_four_halvings_divide(
    size: tuple[int, int, int], padded: tuple[int, int, int]
) -> None:
    assert padded_size(size, 4) == padded


def test_cropping_undoes_padding_with_background() -> None:
    volume = torch.rand(2, 1, 5, 6, 7)
    wide = pad_volume(volume, (8, 8, 8))
    assert wide.shape == (2, 1, 8, 8, 8)
    assert torch.equal(crop_volume(wide, (5, 6, 7)), volume)
    assert wide.sum() == pytest.approx(float(volume.sum()) - 2 * (8**3 - 5 * 6 * 7), rel=1e-4)
    with pytest.raises(MedpairError, match=r"the volumes are of \[5, 6, 7\]"):
        pad_volume(volume, (8, 8, 6))


def test_the_networks_fit_each_other_at_any_size() -> None:
    size = (48, 40, 36)
    generator = VolumeGenerator(size, CHANNELS, latent=7)
    encoder = VolumeReader(size, CHANNELS, outputs=7)
    made = generator(3 * torch.randn(2, 7))
    assert made.shape == (2, 1, 48, 48, 48)
    assert made.abs().max() <= 1
    assert made.std() > 0
    code = encoder(made)
    assert code.shape == (2, 7)
    assert VolumeReader(size, CHANNELS)(made).shape == (2, 1)
    assert CodeReader(7, hidden=5)(code).shape == (2, 1)


def test_the_published_sizes_have_the_published_layers() -> None:
    with torch.device("meta"):
        encoder = VolumeReader((64, 64, 64), PUBLISHED, outputs=1000)
        generator = VolumeGenerator((64, 64, 64), PUBLISHED, latent=1000)
        critic = CodeReader(1000, 4096)
    kernels = [m.weight.shape for m in encoder.modules() if isinstance(m, nn.Conv3d)]
    assert [tuple(k)[:2] for k in kernels] == [
        (64, 1),
        (128, 64),
        (256, 128),
        (512, 256),
        (1000, 512),
    ]
    assert {tuple(k)[2:] for k in kernels} == {(4, 4, 4)}
    assert sum(isinstance(m, nn.BatchNorm3d) for m in encoder.modules()) == 3  # not after the first
    ups = [tuple(m.weight.shape)[:2] for m in generator.body.modules() if isinstance(m, nn.Conv3d)]
    assert ups == [(256, 512), (128, 256), (64, 128), (1, 64)]
    assert generator.base == (4, 4, 4)
    assert [m.out_features for m in critic.modules() if isinstance(m, nn.Linear)] == [4096, 4096, 1]


def test_norms_are_options() -> None:
    for norm in ("instance", "none"):
        nets = VolumeGenerator((16, 16, 16), (2, 3), 4, norm), CodeReader(4, 5, norm)
        assert not any("BatchNorm" in type(m).__name__ for net in nets for m in net.modules())
    with pytest.raises(MedpairError, match="norm: 'layer', wanted one of batch"):
        VolumeReader((16, 16, 16), (2, 3), norm="layer")
    with pytest.raises(MedpairError, match=r"size: \[16, 16\]"):
        VolumeGenerator((16, 16), (2, 3), 4)


@pytest.mark.parametrize(("slope", "penalty"), [(1.0, 0.0), (3.0, 4.0), (0.5, 0.25), (0.0, 1.0)])
def test_a_linear_critics_penalty_is_its_slope_from_one(slope: float, penalty: float) -> None:
    weight = torch.zeros(2, 3, 4)
    weight[1, 2, 3] = slope
    real, fake = torch.randn(5, 1, 2, 3, 4), torch.randn(5, 1, 2, 3, 4)
    found = gradient_penalty(lambda x: (x * weight).sum((1, 2, 3, 4)), real, fake, torch.rand(5))
    assert float(found) == pytest.approx(penalty, abs=1e-4)


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    # score x^2 / 2: its gradient is the place itself
    real, fake = torch.full((3, 1), 4.0), torch.full((3, 1), 2.0)
    mix = torch.tensor([0.0, 0.5, 1.0])
    found = gradient_penalty(lambda x: x.square() / 2, real, fake, mix).detach()
    assert float(found) == pytest.approx(((2 - 1) ** 2 + (3 - 1) ** 2 + (4 - 1) ** 2) / 3)


def test_the_penalty_has_a_gradient_for_the_critic() -> None:
    critic = nn.Linear(1, 1, bias=False)
    nn.init.constant_(critic.weight, 3.0)
    gradient_penalty(critic, torch.randn(4, 1), torch.randn(4, 1), torch.rand(4)).backward()
    assert critic.weight.grad is not None
    assert float(critic.weight.grad) == pytest.approx(2 * (3 - 1))  # of (|w| - 1)^2


def test_critics_win_by_high_scores_for_real_and_low_ones_for_fakes() -> None:
    high, low = torch.full((4, 1), 5.0), torch.full((4, 1), -2.0)
    assert float(critic_loss(high, [low, low])) == -14
    assert float(critic_loss(low, [high, high])) == 14
    assert float(critic_loss(high, [high])) == 0
    assert float(fooling(high)) == -5


def test_the_generators_loss_adds_reconstruction_and_fooled_critics() -> None:
    image, rebuilt = torch.zeros(2, 1, 2, 2, 2), torch.full((2, 1, 2, 2, 2), 0.5)
    scores = [torch.full((2, 1), 1.0), torch.full((2, 1), 2.0)]
    terms = WganLoss(l1=10.0).generator(image, rebuilt, scores, torch.full((2, 1), 4.0))
    found = {name: float(term) for name, term in terms.items()}
    assert found == {"l1": 0.5, "adversarial": -3.0, "code": -4.0, "loss": 10 * 0.5 - 3 - 4}
    with pytest.raises(MedpairError, match="generator_steps: 0"):
        WganLoss(generator_steps=0)
