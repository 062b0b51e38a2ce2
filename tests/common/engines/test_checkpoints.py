from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from common.engines.batches import Batch, IterationBatches
from common.engines.checkpoints import (
    Ema,
    Position,
    Resume,
    latest_checkpoint,
    load_checkpoint,
    run_trainer,
)
from common.engines.handlers import SeedIterations, WarmupCosine
from common.errors import MedpairError

LENGTH, EPOCHS = 4, 3
Objects = dict[str, nn.Module | torch.optim.Optimizer]


class KilledError(Exception):
    """Stands for a process that ends between two iterations."""


def draw(generator: torch.Generator) -> Batch:
    x = torch.randn(8, 3, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True)}


def make_trainer(folder: Path, *, every: int = 2, epochs: int = EPOCHS) -> tuple[Engine, Objects]:
    """A trainer with everything that a run must carry over: momentum, averages, dropout."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    batches = IterationBatches(draw, 3, LENGTH)

    def step(_: Engine, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = (network(batch["x"]) - batch["y"]).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    trainer = Engine(step)
    trainer.state.max_epochs, trainer.state.epoch_length = epochs, LENGTH
    ema = Ema(network, decay=0.9, warmup=5)
    objects: Objects = {"network": network, "ema": ema.network, "optimizer": optimizer}
    schedule = WarmupCosine(optimizer, LENGTH * EPOCHS, warmup=3)
    resume = Resume(str(folder), objects, every=every)
    for handler in (SeedIterations(batches, 3), schedule, ema, resume):
        handler.attach(trainer)
    inner = trainer.run
    trainer.run = lambda: inner(batches, max_epochs=epochs, epoch_length=LENGTH)
    return trainer, objects


def kill_at(trainer: Engine, iteration: int) -> None:
    """Let a run die after an iteration."""

    def die() -> None:
        raise KilledError

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), die)
    with pytest.raises(KilledError):
        run_trainer(trainer)


def tensors(tree: object) -> list[Tensor]:
    """All tensors of a nested state, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree
    return [t for v in values for t in tensors(v)] if isinstance(tree, dict | list | tuple) else []


def assert_same_state(left: Objects, right: Objects) -> None:
    for name in left:
        pairs = zip(
            tensors(left[name].state_dict()), tensors(right[name].state_dict()), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    trainer, objects = make_trainer(tmp_path_factory.mktemp("whole"))
    run_trainer(trainer)
    return objects


@pytest.mark.parametrize("killed_at", [2, 4, 7, 8])  # on and off checkpoints, inside and at epochs
def test_a_killed_run_ends_like_an_uninterrupted_one(
    killed_at: int, tmp_path: Path, uninterrupted: Objects
) -> None:
    kill_at(make_trainer(tmp_path)[0], killed_at)
    trainer, objects = make_trainer(tmp_path)
    assert trainer.state.iteration == killed_at // 2 * 2
    run_trainer(trainer)
    assert trainer.state.iteration == LENGTH * EPOCHS
    assert trainer.state.epoch == EPOCHS
    assert_same_state(objects, uninterrupted)


def test_a_finished_run_started_again_does_nothing(tmp_path: Path, uninterrupted: Objects) -> None:
    run_trainer(make_trainer(tmp_path)[0])
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    trainer, objects = make_trainer(tmp_path)
    run_trainer(trainer)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == files
    assert_same_state(objects, uninterrupted)


def test_a_finished_run_can_be_extended(tmp_path: Path) -> None:
    run_trainer(make_trainer(tmp_path)[0])
    trainer, _ = make_trainer(tmp_path, epochs=EPOCHS + 1)
    run_trainer(trainer)
    assert trainer.state.iteration == LENGTH * (EPOCHS + 1)


def test_resume_false_starts_anew(tmp_path: Path) -> None:
    run_trainer(make_trainer(tmp_path)[0])
    engine = Engine(lambda e, b: None)
    Resume(str(tmp_path), {"network": nn.Linear(7, 7)}, resume=False).attach(engine)
    assert engine.state.iteration == 0


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run_trainer(make_trainer(tmp_path)[0])
    names = {path.name for path in (tmp_path / "checkpoints").glob("*.pt")}
    assert names == {"checkpoint_10.pt", "checkpoint_12.pt"}


def test_the_newest_checkpoint_is_the_one_of_the_highest_iteration(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    for name in ("checkpoint_9.pt", "checkpoint_10.pt", "checkpoint_best.pt", "tmp_99.pt"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint_10.pt"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def another_network(path: Path) -> None:
    torch.save({"network": nn.Linear(5, 5).state_dict(), "position": {"iteration": 4}}, path)


def without_position(path: Path) -> None:
    torch.save({"network": nn.Linear(3, 3).state_dict()}, path)


def no_dictionary(path: Path) -> None:
    torch.save([1, 2], path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_pickle(path: Path) -> None:
    path.write_bytes(b"these are not weights")


@pytest.mark.parametrize(
    "damage", [cut_short, another_network, without_position, no_dictionary, no_pickle, empty]
)
def test_a_checkpoint_that_does_not_fit_is_named(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint_4.pt"
    engine = Engine(lambda e, b: None)
    engine.state.epoch_length = 4
    objects = {"network": nn.Linear(3, 3), "position": Position(engine)}
    torch.save({k: v.state_dict() for k, v in objects.items()}, path)
    load_checkpoint(path, objects)  # fits before the damage
    damage(path)
    with pytest.raises(MedpairError, match=r"checkpoint_4\.pt: .*; delete it or choose") as error:
        load_checkpoint(path, objects)
    assert "\n" not in str(error.value)


def test_the_average_warms_up_by_the_trainers_iteration() -> None:
    """New average = m new weights + (1 - m) old average; m falls from 1/2 to 1 - decay."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = Ema(network, decay=0.9, warmup=5)

    def step(engine: Engine, _: object) -> None:
        network.weight.data.fill_(float(engine.state.iteration))

    trainer = Engine(step)
    ema.attach(trainer)
    seen: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.append(float(ema.network.weight))
    )
    trainer.run(islice(iter(int, 1), 7), epoch_length=7)
    average, wanted = 0.0, []
    for iteration, share in enumerate([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1], start=1):
        average += share * (iteration - average)
        wanted.append(average)
    assert seen == pytest.approx(wanted)
    assert not ema.network.training


def test_without_decay_the_average_is_the_network() -> None:
    network = nn.Linear(2, 2)
    ema = Ema(network, decay=0.0)
    ema.attach(Engine(lambda e, b: None))
    assert ema.network is network
