import threading
from itertools import islice

import pytest
import torch

from common.engines.batches import (
    Batch,
    IterationBatches,
    epoch_length,
    iteration_generator,
    made_ahead,
    noise_like,
)


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


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_batches_drawn_ahead_are_the_same(ahead: int) -> None:
    wanted = list(islice(IterationBatches(draw, seed=5, epoch_length=4), 6))
    batches = IterationBatches(draw, seed=5, epoch_length=4, ahead=ahead)
    found = []
    for batch in islice(batches, 6):
        found.append(batch)
        assert batches.iteration == len(found)  # counts what was given out, not what was drawn
    assert [b["iteration"] for b in found] == [b["iteration"] for b in wanted]
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(found, wanted, strict=True))


def test_a_new_pass_of_batches_drawn_ahead_goes_on_where_the_last_one_ended() -> None:
    batches = IterationBatches(draw, seed=5, epoch_length=2, ahead=3)
    numbers = [batch["iteration"] for _ in range(3) for batch in islice(batches, 2)]
    assert numbers == [0, 1, 2, 3, 4, 5]


def test_batches_are_drawn_while_the_last_one_is_used() -> None:
    drawn = [threading.Event() for _ in range(3)]

    def make(number: int) -> Batch:
        drawn[number].set()
        return {"number": number}

    stream = made_ahead(make, 0, 2)
    assert next(stream) == {"number": 0}
    assert drawn[1].wait(10)  # nobody asked for it yet
    assert drawn[2].wait(10)


def test_a_fault_in_drawing_ahead_is_raised_where_the_batch_is_wanted() -> None:
    def make(number: int) -> Batch:
        if number == 1:
            raise ValueError("batch 1")
        return {}

    stream = made_ahead(make, 0, 2)
    next(stream)
    with pytest.raises(ValueError, match="batch 1"):
        next(stream)


def test_noise_on_the_cpu_is_the_generators_own() -> None:
    x = torch.zeros(3, 4)
    expected = torch.randn(3, 4, generator=iteration_generator(0, 1))
    assert torch.equal(noise_like(x, iteration_generator(0, 1)), expected)
