"""A network per view, trained by two processes that draw different views."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.bundles import bundles_dir

CONFIGS = bundles_dir() / "sdm_refiner" / "configs"
ITERATIONS = 3

# the processes fork after the imports, which take longest, and before anything is computed
PROCESSES = f"""
import os, sys
from monai.bundle import ConfigWorkflow
import torch._dynamo, monai.engines, sdm.unconditional, sdm.diffusion, sdm.slices
import common.engines.checkpoints, common.engines.handlers, common.engines.weights

out = sys.argv[1]
other = os.fork()
os.environ["RANK"] = rank = "0" if other else "1"
opened = ConfigWorkflow(
    [f"{CONFIGS}/train_ddpm.yaml", f"{CONFIGS}/multi_gpu_train.yaml"],
    workflow_type="train",
    logging_file=False,
    **{{
        "network_def::channels": [4, 8],
        "network_def::attention_levels": [False, True],
        "network_def::num_head_channels": 4,
        "network_def::norm_num_groups": 2,
        "dataset_dir": "phantom:brain4:16x16x16:2",
        "output_dir": os.path.join(out, rank),
        "max_iterations": {ITERATIONS},
        "batch_size": 2,
        "val_interval": 1,
        "train::handlers::7::_disabled_": True,
    }},
)
opened.initialize()
draw = opened.parser.get_parsed_content("train#dataset")
views = []
def noted(generator):
    batch = draw(generator)
    views.append(batch["view"])
    return batch
opened.parser.get_parsed_content("train#batches").draw = noted
opened.run()
import torch
torch.save(
    {{"views": views, "weights": opened.parser.get_parsed_content("network").state_dict()}},
    os.path.join(out, rank + ".pt"),
)
opened.finalize()
if other:
    sys.exit(os.waitpid(other, 0)[1] != 0)
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would share the device")
def test_processes_that_draw_different_views_train_equal_networks(tmp_path: Path) -> None:
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(tmp_path)],
        env=os.environ | address,
        cwd=CONFIGS.parents[2],
        capture_output=True,
        text=True,
        timeout=600,  # a deadlock, not a busy machine, shall end it
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in range(2))
    assert len(one["views"]) == ITERATIONS
    assert one["views"] != other["views"]
    assert all(torch.equal(value, other["weights"][key]) for key, value in one["weights"].items())
    logged = [(tmp_path / str(n) / "val_log.jsonl").exists() for n in range(2)]
    assert logged == [True, False]
