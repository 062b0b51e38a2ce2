import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.engines.budget import PROBE, Budget
from common.engines.weights import ExportWeights, load_weights, read_card, save_weights
from common.errors import MedpairError
from common.io.manifest import sha256

CARD = {"schema": "brain4", "preset": "tiny", "seed": 3}


class Network(nn.Module):
    """Weights, and a counter that must stay an integer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("count", torch.tensor(70_000))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(Network(), tmp_path / "models" / "model.pt", CARD)
    return tmp_path / "models" / "model.pt"


def test_weights_come_back_as_float32_of_their_fp16_values(tmp_path: Path) -> None:
    source, target = Network(), Network().train()
    save_weights(source, tmp_path / "model.pt", CARD)
    loaded = load_weights(target, tmp_path / "model.pt", schema="brain4", preset="tiny")
    assert loaded is target
    assert not loaded.training
    assert target.linear.weight.dtype == torch.float32
    assert torch.equal(target.linear.weight, source.linear.weight.half().float())
    assert int(target.count) == 70_000


def test_the_file_is_a_bare_fp16_state_dict_with_a_card(saved: Path) -> None:
    state = torch.load(saved, weights_only=True)
    assert set(state) == {"linear.weight", "linear.bias", "count"}
    assert state["linear.weight"].dtype == torch.float16
    assert read_card(saved) == {**CARD, "sha256": sha256(saved)}
    assert read_card(saved.with_name("other.pt")) == {}


def test_a_bare_file_without_card_loads(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    load_weights(Network(), saved, schema="brain4", preset="tiny")


def edit_card(path: Path, **entries: str) -> None:
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) | entries
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])
    edit_card(path, sha256=sha256(path))


def foreign(path: Path) -> None:
    save_weights(Network(width=5), path, CARD)


def other_names(path: Path) -> None:
    save_weights(nn.Conv1d(1, 1, 1), path, CARD)


def unsafe(path: Path) -> None:
    torch.save({"linear.weight": Path("an object")}, path)
    edit_card(path, sha256=sha256(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: edit_card(p, schema="thorax7"), r"schema 'thorax7', wanted 'brain4'; use --sch"),
        (lambda p: edit_card(p, preset="small"), r"preset 'small', wanted 'tiny'; use --preset sm"),
        (lambda p: edit_card(p, sha256="0" * 64), r"sha256 differs .*; fetch the file again"),
        (lambda p: p.unlink(), r"no such weight file; train it or give another --weights"),
        (cut_short, r"does not fit this network .*; use weights of this preset"),
        (foreign, r"does not fit this network .*; use weights of this preset"),
        (other_names, r"does not fit this network .*; use weights of this preset"),
        (unsafe, r"does not fit this network .*; use weights of this preset"),
    ],
)
def test_weights_that_do_not_fit_are_named_with_the_repair(
    damage: Callable[[Path], None], message: str, saved: Path
) -> None:
    damage(saved)
    with pytest.raises(MedpairError, match=rf"model\.pt: .*{message}") as error:
        load_weights(Network(), saved, schema="brain4", preset="tiny")
    assert "\n" not in str(error.value)


def test_the_card_of_an_export_says_how_long_the_training_was(tmp_path: Path) -> None:
    trainer = Engine(lambda e, b: None)
    network = Network()
    ExportWeights(network, str(tmp_path / "model.pt"), CARD).attach(trainer)
    trainer.run([0] * 5)
    assert read_card(tmp_path / "model.pt")["iterations"] == 5
    loaded = load_weights(Network(), tmp_path / "model.pt")
    torch.testing.assert_close(loaded.linear.weight, network.linear.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "is_written"), [({}, True), ({"half": False}, False), ({"keep": True}, False)]
)
def test_weights_at_half_time_are_written_where_asked(
    options: dict[str, bool], is_written: bool, tmp_path: Path
) -> None:
    clock = iter(range(10_000))
    trainer = Engine(lambda e, b: None)
    Budget(0.5, clock=lambda: float(next(clock))).attach(trainer)
    ExportWeights(Network(), str(tmp_path / "model.pt"), CARD, **options).attach(trainer)
    trainer.run([0] * 5, max_epochs=trainer.state.max_epochs)
    done = read_card(tmp_path / "model.pt")["iterations"]
    assert (tmp_path / "half" / "model.pt").exists() == is_written
    if is_written:
        assert PROBE < read_card(tmp_path / "half" / "model.pt")["iterations"] < done


def test_entries_that_a_file_may_lack_stay_as_they_are(tmp_path: Path) -> None:
    """As where layers are added to a trained network; what the file holds always comes from it."""
    source, target = Network(), Network()
    kept = target.linear.bias.detach().clone()
    state = {k: v for k, v in source.state_dict().items() if k != "linear.bias"}
    torch.save(state, tmp_path / "model.pt")
    load_weights(target, tmp_path / "model.pt", may_lack=["linear.bias", "linear.weight"])
    assert torch.equal(target.linear.bias, kept)
    assert torch.equal(target.linear.weight, source.linear.weight)


@pytest.mark.parametrize("may_lack", [[], ["linear.weight"], ["bias"]])
def test_other_entries_must_be_in_the_file(may_lack: list[str], tmp_path: Path) -> None:
    state = {k: v for k, v in Network().state_dict().items() if k != "linear.bias"}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(MedpairError, match=r"does not fit this network .*linear\.bias"):
        load_weights(Network(), tmp_path / "model.pt", may_lack=may_lack)


def test_entries_of_no_layer_are_refused_even_if_some_may_lack(tmp_path: Path) -> None:
    torch.save(Network().state_dict() | {"extra": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(MedpairError, match="does not fit this network"):
        load_weights(Network(), tmp_path / "model.pt", may_lack=["extra", "linear.bias"])
