from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from common.engines.batches import IterationBatches
from common.engines.device import pick_device
from common.engines.distributed import average_gradients, is_first, local_device, rank, start, stop

# Two processes; each has gradients where the other has none, as with a network per view. They fork
# after the imports, which take longest, and before anything is computed.
PROCESSES = """
import json, os, sys
from datetime import timedelta
import torch
from torch import nn
import torch.distributed as dist
from common.engines.distributed import average_gradients

other = os.fork()
rank = 0 if other else 1
dist.init_process_group("gloo", f"file://{sys.argv[1]}/store", timedelta(minutes=5), 2, rank)
names = ("axial", "coronal", "sagittal", "idle", "shared")
views = nn.ModuleDict({name: nn.Linear(2, 1, bias=False) for name in names})
views["deep"] = nn.Conv2d(2, 3, 3, bias=False).to(memory_format=torch.channels_last)
mine = ({"axial": 2.0, "sagittal": 8.0, "shared": 1.0}, {"coronal": 4.0, "shared": 3.0})[rank]
for name, value in mine.items():
    views[name].weight.grad = torch.full((1, 2), value)
if rank == 1:
    (views["deep"].weight * torch.arange(54.0).view(3, 2, 3, 3)).sum().backward()
average_gradients(views)
grads = {name: layer.weight.grad for name, layer in views.items()}
found = {name: None if g is None else g.flatten().tolist() for name, g in grads.items()}
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
if rank == 0:
    sys.exit(os.waitpid(other, 0)[1] != 0)
"""


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


def test_a_gradient_that_a_process_lacks_counts_as_zero(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESSES, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / f"{n}.json").read_text("utf-8")) for n in range(2))
    assert one == other  # else the networks of the processes drift apart
    assert one["axial"] == [1.0, 1.0]
    assert one["coronal"] == [2.0, 2.0]
    assert one["sagittal"] == [4.0, 4.0]
    assert one["shared"] == [2.0, 2.0]
    assert one["deep"] == [value / 2 for value in range(54)]
    assert one["idle"] is None  # a zero would let the optimiser's weight decay move it


def test_processes_draw_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
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
