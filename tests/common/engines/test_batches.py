from itertools import islice

import pytest
import torch

from common.engines.batches import Batch, IterationBatches, epoch_length, iteration_generator


def draw(generator: torch.Generator) -> Batch:
    return {"x": torch.randn(3, generator=generator)}


def test_batch_i_is_the_same_after_a_restart() -> None:
    whole = list(islice(IterationBatches(draw, seed=5, epoch_length=4), 6))
    restarted = IterationBatches(draw, seed=5, epoch_length=4)
    restarted.iteration = 3
    for left, right in zip(whole[3:], islice(restarted, 3), strict=True):
        assert left["iteration"] == right["iteration"]
        assert torch.equal(left["x"], right["x"])


def test_a_new_pass_goes_on_where_the_last_one_ended() -> None:
    batches = IterationBatches(draw, seed=5, epoch_length=2)
    numbers = [batch["iteration"] for _ in range(3) for batch in islice(batches, 2)]
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert len(batches) == 2


def test_batches_know_the_seed_and_differ_by_seed_and_iteration() -> None:
    values = set()
    for seed in range(4):
        for batch in islice(IterationBatches(draw, seed, epoch_length=8), 8):
            assert batch["seed"] == seed
            values.add(tuple(batch["x"].tolist()))
    assert len(values) == 4 * 8


def test_generators_of_neighbouring_iterations_are_uncorrelated() -> None:
    x = torch.stack([torch.randn(2000, generator=iteration_generator(0, i)) for i in range(6)])
    assert (torch.corrcoef(x) - torch.eye(6)).abs().max() < 0.12


@pytest.mark.parametrize("wanted", [1, 20, 500, 501, 750, 9000, 9001])
def test_epochs_are_short_and_add_up_to_the_run(wanted: int) -> None:
    length = epoch_length(wanted)
    epochs = -(-wanted // length)
    assert 1 <= length <= 500
    assert 0 <= epochs * length - wanted < epochs
