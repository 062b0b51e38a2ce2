"""A training in two processes is the training of one process on both batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.engines.weights import load_weights, read_card

ROOT = Path(__file__).parents[3]
CONFIGS = bundles_dir() / "mcdpm_mask" / "configs"
TRAINING = """
import sys
import torch
from torch import nn
from monai.engines import SupervisedTrainer
from pathlib import Path
from common.engines.distributed import AverageGradients, rank, start, stop
from common.engines.handlers import ClipGradients
from common.engines.weights import save_weights

several = sys.argv[2] == "several"
if several:
    start()
torch.manual_seed(0)
network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, 2, 3, padding=1))
data = torch.randn(5, 2, 3, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
wanted = torch.randn(5, 2, 3, 2, 6, 6, 6, generator=torch.Generator().manual_seed(2))

def batches():
    for x, y in zip(data, wanted):
        mine = slice(rank(), rank() + 1) if several else slice(None)
        yield {"image": x[mine].flatten(0, 1), "label": y[mine].flatten(0, 1)}

trainer = SupervisedTrainer(
    device=torch.device("cpu"),
    max_epochs=1,
    epoch_length=5,
    train_data_loader=list(batches()),
    network=network,
    optimizer=torch.optim.AdamW(network.parameters(), 0.01),
    loss_function=nn.MSELoss(),
    decollate=False,
    train_handlers=[AverageGradients(network), ClipGradients(network)],
)
trainer.run()
torch.save(network.state_dict(), f"{sys.argv[1]}/{sys.argv[2]}_{rank()}.pt")
if rank() == 0:
    save_weights(network, Path(sys.argv[1]) / f"{sys.argv[2]}.pt", {})
if several:
    stop()
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def in_two_processes(words: list[str], place: Path) -> None:
    """Start a command twice, as torchrun does."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    shared |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *words],
            env=os.environ | shared | {"RANK": str(n), "LOCAL_RANK": str(n)},
            cwd=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    said = [process.communicate(timeout=600)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said[0][-2000:]


def test_five_updates_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    in_two_processes(["-c", TRAINING, str(tmp_path), "several"], tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, "-W", "ignore", "-c", TRAINING, str(tmp_path), "alone"]
    subprocess.run(alone, env=environment, check=True)
    one, other, whole = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for name in ("several_0", "several_1", "alone_0")
    )
    for key, value in whole.items():
        assert torch.equal(one[key], other[key])
        torch.testing.assert_close(one[key], value, atol=1e-6, rtol=1e-5)
    saved = torch.load(tmp_path / "several.pt", weights_only=True)
    assert set(saved) == set(whole)  # no prefix "module."


BUDGET = """
import sys
import torch
from ignite.engine import Engine
from torch import nn
from common.engines.budget import Budget
from common.engines.distributed import average_gradients, rank, start, stop
from common.engines.handlers import WarmupCosine

start()
torch.manual_seed(0)
network = nn.Linear(3, 1)
optimizer = torch.optim.SGD(network.parameters(), 0.1)
clock = {"now": 0.0}

def step(engine, batch):
    clock["now"] += 1.0 + rank()  # the second process believes that it is twice as slow
    optimizer.zero_grad()
    network(torch.randn(4, 3)).square().sum().backward()
    average_gradients(network)
    optimizer.step()

trainer = Engine(step)
trainer.state.max_epochs, trainer.state.epoch_length = 1, 4
for handler in (WarmupCosine(optimizer, warmup=2), Budget(0.2, clock=lambda: clock["now"])):
    handler.attach(trainer)
trainer.run(iter(range(100)), max_epochs=trainer.state.max_epochs)
made = {"weights": network.state_dict(), "updates": trainer.state.iteration}
torch.save(made | {"rate": optimizer.param_groups[0]["lr"]}, f"{sys.argv[1]}/{rank()}.pt")
stop()
"""


def test_processes_end_together_by_the_clock_of_the_first(tmp_path: Path) -> None:
    in_two_processes(["-c", BUDGET, str(tmp_path)], tmp_path)
    one, other = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in range(2))
    assert one["updates"] == other["updates"] == 12
    assert one["rate"] == other["rate"]
    assert all(torch.equal(one["weights"][k], other["weights"][k]) for k in one["weights"])


VALIDATIONS = """
import json
import sys
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from pathlib import Path
from torch import nn
from common.engines.budget import Budget
from common.engines.distributed import AverageGradients, rank, start, stop

start()
torch.manual_seed(0)
network = nn.Linear(3, 1)
clock, runs = {"now": 0.0}, []
data = [{"image": torch.randn(4, 3), "label": torch.randn(4, 1)}] * 4
device = torch.device("cpu")
validator = SupervisedEvaluator(device, data, network, decollate=False)

def wait(engine):
    clock["now"] += 1.0 + rank()  # the second process believes that it is twice as slow

def look(engine):
    clock["now"] += 1.5 + rank()
    runs.append(trainer.state.iteration)

validator.add_event_handler("COMPLETED", look)
trainer = SupervisedTrainer(
    device=device,
    max_epochs=1,
    train_data_loader=data,
    network=network,
    optimizer=torch.optim.SGD(network.parameters(), 0.1),
    loss_function=nn.MSELoss(),
    decollate=False,
    train_handlers=[AverageGradients(network)],
)
trainer.add_event_handler("ITERATION_COMPLETED", wait)
ValidationHandler(1, validator).attach(trainer)
Budget(0.2, validator, clock=lambda: clock["now"]).attach(trainer)
trainer.run()
made = {"validated": runs, "updates": trainer.state.iteration}
Path(sys.argv[1], f"{rank()}.json").write_text(json.dumps(made))
stop()
"""


def test_processes_with_a_budget_validate_together(tmp_path: Path) -> None:
    """The clock that all wait for also times the validations; one that skipped them would hang."""
    in_two_processes(["-c", VALIDATIONS, str(tmp_path)], tmp_path)
    one, other = (json.loads((tmp_path / f"{n}.json").read_text()) for n in range(2))
    assert one == other
    assert one["validated"] == [4, 11]  # the second of the way has no time left
    assert one["updates"] == 11


@pytest.mark.parametrize(
    "bundle", ["mcdpm_mask", "sdm_refiner", "segmentation_eval", "vid2vid_image"]
)
def test_all_processes_validate_and_the_first_one_writes(bundle: str) -> None:
    folder = bundles_dir() / bundle / "configs"
    config, overlay = (
        yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("train", "multi_gpu_train")
    )
    silenced = {key.removesuffix("::_disabled_") for key in overlay if key.endswith("_disabled_")}
    names = {
        f"{part}::handlers::{number}": entry["_target_"].split(".")[-1]
        for part in ("train", "validate")
        for number, entry in enumerate(config[part]["handlers"])
    }
    (validation,) = [key for key, name in names.items() if name == "ValidationHandler"]
    writers = {"LossLog", "Tracking", "ExportWeights", "MetricLog"}
    assert validation not in silenced
    assert {key for key, name in names.items() if name in writers} <= silenced
    assert not [key for key in overlay if key.endswith("::validator")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes want two devices")
def test_a_bundle_trains_in_two_processes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = [str(CONFIGS / "train.yaml"), str(CONFIGS / "multi_gpu_train.yaml")]
    small = {
        "dataset_dir": "phantom:brain4:16x16x16:2",
        "size": "[16,16]",
        "sample_depth": "8",
        "copies": "0",
        "batch_size": "2",
        "network_def#channels": "[16,16,16]",
        "sampler#num_steps": "2",
        "max_iterations": "5",
        "output_dir": str(out),
    }
    words = ["-m", "monai.bundle", "run", "--config_file", str(files)]
    in_two_processes(words + [w for k, v in small.items() for w in (f"--{k}", v)], tmp_path)
    assert read_card(out / "model.pt")["iterations"] == 5
    flow = ConfigWorkflow(
        files[0], workflow_type="train", logging_file=False, **{"network_def#channels": [16] * 3}
    )
    flow.initialize()
    load_weights(flow.parser.get_parsed_content("network_def"), out / "model.pt", schema="brain4")
