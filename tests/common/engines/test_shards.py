import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.engines import shards, weights
from common.engines.shards import LIMIT, copy_state, read_state, save_state
from common.engines.weights import keep_weights, load_weights, save_weights
from common.errors import MedpairError
from common.io.weight_files import shards_of


def state(seed: int = 0, tensors: int = 6) -> dict[str, Tensor]:
    """Return tensors of 4 kB each and a counter."""
    g = torch.Generator().manual_seed(seed)
    whole = {f"layer{i}.weight": torch.randn(1000, generator=g) for i in range(tensors)}
    return {**whole, "count": torch.tensor(7)}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_a_small_state_is_one_bare_file(tmp_path: Path) -> None:
    save_state(state(), tmp_path / "model.pt")
    assert equal(torch.load(tmp_path / "model.pt", weights_only=True), state())
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("limit", [6000, 10_000, 20_000])
def test_a_large_state_comes_back_from_files_below_the_limit(limit: int, tmp_path: Path) -> None:
    save_state(state(), tmp_path / "model.pt", limit)
    found = shards_of(tmp_path / "model.pt")
    assert len(found) == -(-6 // int(0.98 * limit // 4000))
    assert equal(read_state(tmp_path / "model.pt"), state())
    assert [p.name for p in tmp_path.glob("*.pt")] == ["model.pt"]


def test_real_files_keep_to_the_limit(tmp_path: Path) -> None:
    # as many small tensors as a large network has, whose headers count as well
    whole = {f"block.{i}.conv.weight": torch.zeros(40_000, dtype=torch.half) for i in range(400)}
    save_state(whole, tmp_path / "model.pt")
    files = shards_of(tmp_path / "model.pt")
    assert len(files) == 3
    assert max(p.stat().st_size for p in [*files, tmp_path / "model.pt"]) <= LIMIT


def test_a_tensor_above_the_limit_has_a_shard_of_its_own(tmp_path: Path) -> None:
    whole = {"a": torch.zeros(10), "b": torch.zeros(5000), "c": torch.zeros(10)}
    save_state(whole, tmp_path / "model.pt", 10_000)
    assert len(shards_of(tmp_path / "model.pt")) == 3
    assert equal(read_state(tmp_path / "model.pt"), whole)


def test_equal_states_are_equal_bytes_wherever_they_lie(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_state(state(), tmp_path / folder / f"{folder}.pt", 10_000)
    a, b = ({p.name for p in shards_of(tmp_path / f / f"{f}.pt")} for f in ("a", "b"))
    assert a == b
    assert (tmp_path / "a" / "a.pt").read_bytes() == (tmp_path / "b" / "b.pt").read_bytes()


def test_an_interrupted_write_leaves_the_old_state_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    save_state(state(0), path, 10_000)
    write, calls = shards.write_bytes, []

    def dying(to: Path, data: bytes) -> None:
        calls.append(to)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(to, data)

    monkeypatch.setattr(shards, "write_bytes", dying)
    with pytest.raises(KeyboardInterrupt):
        save_state(state(1), path, 10_000)
    assert equal(read_state(path), state(0))
    monkeypatch.setattr(shards, "write_bytes", write)
    save_state(state(1), path, 10_000)
    assert equal(read_state(path), state(1))
    assert len(shards_of(path)) == 3  # nothing of the old ones is left


def test_a_small_state_takes_the_place_of_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_state(state(), path, 10_000)
    save_state(state(1), path)
    assert shards_of(path) == []
    assert equal(read_state(path), state(1))


def test_a_copy_does_not_need_the_original(tmp_path: Path) -> None:
    save_state(state(), tmp_path / "model.pt", 10_000)
    copy_state(tmp_path / "model.pt", tmp_path / "kept.pt")
    save_state(state(1), tmp_path / "model.pt", 10_000)
    assert equal(read_state(tmp_path / "kept.pt"), state())


def test_a_network_named_shards_is_no_index(tmp_path: Path) -> None:
    save_state({"shards": torch.ones(3)}, tmp_path / "model.pt")
    assert equal(read_state(tmp_path / "model.pt"), {"shards": torch.ones(3)})


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_bad_shard_is_named(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "save_state", partial(save_state, limit=25_000))
    network = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    path = tmp_path / "model.pt"
    save_weights(network, path, {"schema": "brain4", "preset": "small"})
    bad = shards_of(path)[-1]
    load_weights(network, path, schema="brain4", preset="small")
    bad.unlink() if harm == "missing" else bad.write_bytes(b"0" * bad.stat().st_size)
    seen = "no such file" if harm == "missing" else "[0-9a-f]{64}"
    pattern = rf"^{re.escape(str(bad))}: sha256 {seen}, wanted [0-9a-f]{{64}}, .* fetch it again$"
    with pytest.raises(MedpairError, match=pattern):
        load_weights(network, path)


def test_weights_that_are_kept_keep_their_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "save_state", partial(save_state, limit=25_000))
    path = tmp_path / "model.pt"
    before, after = (nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100)) for _ in range(2))
    save_weights(before, path, {"preset": "small"})
    keep_weights(path)
    save_weights(after, path, {"preset": "small"})
    found = load_weights(nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100)),
                         tmp_path / "model_before.pt", preset="small")  # fmt: skip
    wanted = before.state_dict()["1.weight"].half().float()
    assert torch.equal(found.state_dict()["1.weight"], wanted)
