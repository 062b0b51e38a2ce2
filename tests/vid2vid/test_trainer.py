from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from common.data.datasets import Arrays
from common.engines.checkpoints import Ema, Resume, run_trainer
from common.engines.handlers import SeedIterations, StopOnNaN, WarmupCosine
from common.errors import MedpairError
from vid2vid.discriminator import Discriminators
from vid2vid.generator import SliceGenerator
from vid2vid.inferers import SequenceInferer
from vid2vid.losses import GeneratorLoss, LossWeights
from vid2vid.sequences import SequenceBatches, SequenceDataset
from vid2vid.trainer import Vid2VidTrainer


@pytest.fixture
def make_trainer(
    make_generator: Callable[..., SliceGenerator],
    make_arrays: Callable[..., Arrays],
) -> Callable[..., tuple[Vid2VidTrainer, dict[str, Any]]]:
    data = make_arrays(size=(6, 24, 24))

    def make(
        folder: Path, epochs: int, schedule: int = 4, **weights: float
    ) -> tuple[Vid2VidTrainer, dict[str, Any]]:
        network = make_generator().train()
        torch.manual_seed(1)
        judges = Discriminators(6, strides=(1,), channels=4, num_scales=1)
        batches = SequenceBatches(
            SequenceDataset(data, lengths=[(0, 2), (1, 3)], slices_per_batch=6), 0, 1
        )
        optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
        d_optimizer = torch.optim.Adam(judges.parameters(), 1e-2)
        ema = Ema(network, 0.9, warmup=3)
        objects = {
            "network": network,
            "ema": ema.network,
            "optimizer": optimizer,
            "discriminators": judges,
            "d_optimizer": d_optimizer,
        }
        handlers = [
            SeedIterations(batches, 0),
            WarmupCosine(optimizer, schedule, warmup=2),
            StopOnNaN(every=1),
            ema,
            Resume(str(folder), objects),
        ]
        trainer = Vid2VidTrainer(
            "cpu",
            epochs,
            batches,
            network,
            optimizer,
            judges,
            d_optimizer,
            GeneratorLoss(LossWeights(**weights)),
            SequenceInferer("fp32"),
            train_handlers=handlers,
        )
        return trainer, objects

    return make


def states(objects: dict[str, Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for thing in objects.values():
        state = thing.state_dict()
        if "param_groups" in state:
            entries = [entry for _, entry in sorted(state["state"].items())]
            found += [value for entry in entries for value in entry.values()]
        else:
            found += list(state.values())
    return [value.clone() for value in found]


def test_four_iterations_are_two_and_two_resumed(
    make_trainer: Callable[..., tuple[Vid2VidTrainer, dict[str, Any]]], tmp_path: Path
) -> None:
    trainer, whole = make_trainer(tmp_path / "whole", 4)
    before = states(whole)
    run_trainer(trainer)
    run_trainer(make_trainer(tmp_path / "parts", 2)[0])
    resumed, parts = make_trainer(tmp_path / "parts", 4)
    assert resumed.state.iteration == 2
    run_trainer(resumed)
    assert resumed.state.iteration == 4
    pairs = list(zip(states(whole), states(parts), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    changed = [not torch.equal(a, b) for a, b in zip(before, states(whole), strict=False)]
    assert sum(changed) > len(changed) / 2


def test_generator_and_discriminators_both_learn(
    make_trainer: Callable[..., tuple[Vid2VidTrainer, dict[str, Any]]], tmp_path: Path
) -> None:
    trainer, objects = make_trainer(tmp_path, 1)
    g_before = objects["network"].raw_head.conv.weight.clone()
    d_before = states({"discriminators": objects["discriminators"]})
    run_trainer(trainer)
    assert not torch.equal(g_before, objects["network"].raw_head.conv.weight)
    d_after = states({"discriminators": objects["discriminators"]})
    assert any(not torch.equal(a, b) for a, b in zip(d_before, d_after, strict=True))
    assert {"g_loss", "d_loss", "l1", "adversarial", "raw_share"} <= set(trainer.state.output)


def test_without_adversarial_terms_the_discriminators_rest(
    make_trainer: Callable[..., tuple[Vid2VidTrainer, dict[str, Any]]], tmp_path: Path
) -> None:
    trainer, objects = make_trainer(tmp_path, 1, adversarial=0.0, feature_matching=0.0)
    before = states({"discriminators": objects["discriminators"]})
    run_trainer(trainer)
    after = states({"discriminators": objects["discriminators"]})
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert "d_loss" not in trainer.state.output


def test_training_learns_the_image_from_the_labels(
    make_trainer: Callable[..., tuple[Vid2VidTrainer, dict[str, Any]]], tmp_path: Path
) -> None:
    trainer, _ = make_trainer(tmp_path, 40, schedule=60, adversarial=0.0, feature_matching=0.0)
    seen: list[float] = []
    losses = lambda e: seen.append(float(e.state.output["l1"]))  # noqa: E731
    trainer.add_event_handler(Events.ITERATION_COMPLETED, losses)
    run_trainer(trainer)
    assert sum(seen[-5:]) / 5 < 0.85 * seen[0]


def test_a_loss_that_is_not_a_number_stops_the_run(
    make_trainer: Callable[..., tuple[Vid2VidTrainer, dict[str, Any]]], tmp_path: Path
) -> None:
    trainer, objects = make_trainer(tmp_path, 2)
    with torch.no_grad():
        objects["network"].raw_head.conv.weight.fill_(float("nan"))
    with pytest.raises(MedpairError, match=r"iteration 1: .*finite"):
        run_trainer(trainer)
