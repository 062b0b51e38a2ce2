import math

import pytest
import torch

from common.networks.embedding import ConditionEmbedding, sinusoid


def test_sinusoid_is_cosines_then_sines_of_falling_frequencies() -> None:
    value = 3.0
    embedded = sinusoid(torch.tensor([value, 0.0]), 4, max_period=100.0)
    rates = [1.0, 0.1]  # 100^0, 100^(-1/2)
    wanted = [math.cos(value * r) for r in rates] + [math.sin(value * r) for r in rates]
    assert embedded[0].tolist() == pytest.approx(wanted)
    assert embedded[1].tolist() == [1, 1, 0, 0]


def test_all_time_steps_have_their_own_embedding() -> None:
    embedded = sinusoid(torch.arange(1000), 32)
    distance = torch.cdist(embedded, embedded) + 10 * torch.eye(1000)
    assert distance.min() > 0.1


@pytest.mark.parametrize("depth", [48, 96, 192])
def test_neighbouring_positions_are_told_apart(depth: int) -> None:
    """Positions z/D enter times 1000, so that one slice is a step of the order of a time step."""
    embed = ConditionEmbedding(16, 16, num_scalars=1)
    embed.project = torch.nn.Identity()  # type: ignore[assignment]
    z = torch.arange(depth)[:, None] / depth
    embedded = embed(torch.zeros(depth), z)
    assert (embedded[1:] - embedded[:-1]).norm(dim=1).min() > 0.5


def test_every_scalar_counts() -> None:
    torch.manual_seed(0)
    embed = ConditionEmbedding(8, 12, num_scalars=2)
    time, scalars = torch.tensor([5.0]), torch.tensor([[0.25, 0.02]])
    base = embed(time, scalars)
    assert base.shape == (1, 12)
    for other in (
        embed(time + 1, scalars),
        embed(time, scalars + torch.tensor([[0.02, 0]])),
        embed(time, scalars + torch.tensor([[0, 0.02]])),
    ):
        assert (other - base).abs().max() > 1e-3
    assert ConditionEmbedding(8, 12)(time).shape == (1, 12)
