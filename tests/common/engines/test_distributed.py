import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.engines.batches import IterationBatches
from common.engines.device import pick_device
from common.engines.distributed import average_gradients, is_first, local_device, rank, start, stop


def test_one_process_is_the_first_and_keeps_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    layer = nn.Linear(1, 1)
    layer.weight.grad = torch.full((1, 1), 3.0)
    start()
    try:
        assert dist.get_world_size() == 1
        average_gradients(layer)
    finally:
        stop()
    assert not dist.is_initialized()
    assert is_first()
    assert rank() == 0
    assert float(layer.weight.grad) == 3.0


def test_processes_average_their_gradients_and_draw_other_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def add_the_other(gradient: Tensor) -> None:
        gradient += 5.0

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", add_the_other)
    layer = nn.Linear(1, 1)  # the bias has no gradient
    layer.weight.grad = torch.full((1, 1), 3.0)
    average_gradients(layer)
    assert float(layer.weight.grad) == 4.0
    seeds = set()
    for number in range(2):
        monkeypatch.setattr(dist, "get_rank", lambda number=number: number)
        seeds.add(IterationBatches(lambda g: {}, seed=0, epoch_length=1).seed)
    assert len(seeds) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_all_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    assert local_device() == pick_device() == torch.device("cpu")
    assert not is_first()
