from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from segeval.parts import load_training

PHANTOMS = "phantom:brain4:16x16x16:4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms, one of them for validation."""
    made = tmp_path_factory.mktemp("sets") / "real"
    write_phantom_set(made, "brain4", (16, 16, 16), 5, spacing=(4, 4, 4))
    return made


def test_without_parts_the_training_split_is_loaded(folder: Path) -> None:
    assert len(load_training(str(folder)).ids) == 4
    assert len(load_training(PHANTOMS).ids) == 4


def test_parts_are_a_union(folder: Path) -> None:
    parts = [{"dir": str(folder)}, {"dir": str(folder), "split": "validation"}]
    both = load_training("unused", parts)
    alone = load_training("unused", [{"dir": str(folder), "split": None}])
    assert sorted(name.split("/")[1] for name in both.ids) == sorted(alone.ids)
    assert [name[0] for name in both.ids] == list("00001")
    index = alone.ids.index(both.ids[4][2:])
    assert np.array_equal(both.images[4], alone.images[index])
    assert np.array_equal(both.labels[4], alone.labels[index])


def test_a_part_names_pairs_or_draws_them(folder: Path) -> None:
    every = load_training("unused", [{"dir": str(folder)}]).ids
    named = load_training("unused", [{"dir": str(folder), "ids": [every[2], every[0]]}])
    assert named.ids == (every[2], every[0])
    draws = {
        seed: load_training("unused", [{"dir": str(folder), "num": 2, "seed": seed}]).ids
        for seed in range(6)
    }
    assert all(len(set(ids)) == 2 and set(ids) <= set(every) for ids in draws.values())
    assert len(set(draws.values())) > 1
    fewer = load_training("unused", [{"dir": str(folder), "num": 1, "seed": 3}]).ids
    assert set(fewer) < set(draws[3])
    assert len(load_training("unused", [{"dir": PHANTOMS, "num": 3}]).ids) == 3


def test_parts_may_stand_in_a_file_and_are_not_evaluated(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "parts.json"
    path.write_text(json.dumps([{"dir": str(folder), "num": 2}]), encoding="utf-8")
    assert len(load_training("unused", str(path)).ids) == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], r"parts: \[\], wanted a list of at least one part"),
        ([{"folder": "x"}], r"wanted dir and of ids, num, seed, split"),
        ([{"dir": PHANTOMS, "ids": ["a"], "num": 1}], r"has ids and num; leave one out"),
        ([{"dir": PHANTOMS, "ids": ["a"]}], r"no pair 'a' among 4"),
        ([{"dir": PHANTOMS, "ids": []}], r"no pair 'any id'"),
        ([{"dir": PHANTOMS, "num": 5}], r"parts#0 .*: 4 pairs, wanted 5; correct num"),
        ([{"dir": PHANTOMS, "num": 0}], r"parts#0 .*: 4 pairs, wanted 1; correct num"),
        ([{"dir": PHANTOMS, "split": "test"}], r"split 'test' is unknown"),
        ("/no/parts.json", r"parts: /no/parts\.json: .*No such file"),
        (
            [{"dir": PHANTOMS}, {"dir": "phantom:thorax7:16x16x16:2"}],
            r"phantom:thorax7:16x16x16:2: schema thorax7 .*, wanted brain4 .* as phantom:brain4",
        ),
        (
            [{"dir": PHANTOMS}, {"dir": "phantom:brain4:24x24x24:2"}],
            r"24x24x24:2: spacing .* mm, wanted .* mm as .*; prepare or generate it",
        ),
    ],
)
def test_parts_that_do_not_work_are_named(parts: Any, message: str) -> None:
    with pytest.raises(MedpairError, match=message) as error:
        load_training("unused", parts)
    assert "\n" not in str(error.value)
