"""Where memory runs out a batch runs as halves, with the results of the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.errors import MedpairError
from common.halving import joined, out_of_memory, run_halving, taken


def batch(count: int) -> PairBatch:
    label = torch.arange(count)[:, None, None, None].expand(count, 2, 2, 2).byte()
    volumes = tuple(range(10, 10 + count))
    return PairBatch(volumes, 0, load_schema("brain4"), (1, 1, 1), (2, 2, 2), None, label)


class Small:
    """A stage with room for some volumes."""

    def __init__(self, room: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.room, self.error, self.sizes = room, error, list[int]()

    def __call__(self, given: PairBatch) -> PairBatch:
        self.sizes.append(len(given.volumes))
        if len(given.volumes) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        assert given.label_VDHW is not None
        image = given.label_VDHW.float() * 2
        return replace(given, image_VDHW=image, start=given.volumes, faults=((),) * len(image))


def test_halves_give_what_the_whole_gives() -> None:
    whole, size = run_halving("a", Small(5), batch(5))
    assert size == 5
    small = Small(2)
    halved, smallest = run_halving("a", small, batch(5))
    assert small.sizes == [5, 2, 3, 1, 2]
    assert smallest == 1
    assert halved.volumes == whole.volumes
    assert halved.start == whole.start
    assert halved.faults == whole.faults
    assert torch.equal(halved.image_VDHW, whole.image_VDHW)  # type: ignore[arg-type]


def test_one_volume_that_does_not_fit_is_named() -> None:
    with pytest.raises(MedpairError, match=r"mask stage: 1 volumes do not fit .*2\.00 GiB") as said:
        run_halving("mask", Small(0), batch(4))
    assert "smaller preset" in str(said.value)


def test_what_fitted_is_remembered() -> None:
    small, fitted = Small(2), dict[str, int]()
    run_halving("a", small, batch(4), fitted=fitted)
    assert small.sizes == [4, 2, 2]
    run_halving("a", small, batch(4), fitted=fitted)
    assert small.sizes == [4, 2, 2, 2, 2]
    run_halving("other", small, batch(2), fitted=fitted)
    assert fitted == {"a": 2}


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "Triton Error [CUDA]: out of memory",
    ],
)
def test_memory_that_runs_out_elsewhere_is_understood(said: str) -> None:
    outer = RuntimeError("a compiled graph failed")
    outer.__cause__ = RuntimeError(said)
    assert out_of_memory(outer)


def test_exact_refuses_halves() -> None:
    small = Small(2)
    with pytest.raises(MedpairError, match=r"4 volumes do not fit.*smaller --batch-volumes"):
        run_halving("mask", small, batch(4), exact=True)
    assert small.sizes == [4]


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        run_halving("mask", Small(1, ZeroDivisionError), batch(2))


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("shapes differ")) is None


def test_parts_join_to_the_whole() -> None:
    first = batch(4)
    again = joined([taken(first, slice(0, 1)), taken(first, slice(1, 4))])
    assert again.volumes == first.volumes
    assert torch.equal(again.label_VDHW, first.label_VDHW)  # type: ignore[arg-type]
    assert again.image_VDHW is None
