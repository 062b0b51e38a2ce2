from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import MedpairError
from segeval.pools import Item, folds, persons_of, refuse_shared_persons, take
from segeval.strategies import Source, choose, read_strategies

UPDATES = [1, 2, 3, 10, 1500, 10000]


def item(identity: str, mask: str | None = None, *persons: str) -> Item:
    shown = frozenset({persons[0] if persons else identity, *persons})
    person = persons[0] if persons else identity
    return Item(identity, "training", person, shown, mask or identity, (identity, identity))


MASKS = [f"m{n:02d}" for n in range(8)]
RESAMPLED = sorted((item(f"{m}_e{k}", m, m) for m in MASKS for k in (1, 2, 3)), key=lambda i: i.id)


def test_the_papers_strategies_are_there() -> None:
    found = read_strategies()
    sets = {
        name: [[s.set for s in step.data] for step in strategy.steps]
        for name, strategy in found.items()
    }
    both = ["real", "synthetic"]
    assert sets["E2-1"] == sets["E2-1-equal"] == [["real"]]
    assert sets["E2-2"] == [["synthetic"]]
    assert sets["E2-3"] == [both]
    assert sets["E2-4"] == [*sets["E2-2"], ["real"]]
    assert sets["E2-5"] == [*sets["E2-3"], ["real"]]
    assert sets["E3-1"] == [["target"]]
    for number, source in ((2, "E2-1"), (3, "E2-4"), (4, "E2-5")):
        assert sets[f"E3-{number}"] == [*sets[source], ["target"]]
    assert [found[f"resampled-{k}x"].steps[0].data[0].times for k in (1, 2, 3)] == [1, 2, 3]


def test_fine_tuning_is_short_and_gentle_but_where_a_name_says_long() -> None:
    for name, strategy in read_strategies().items():
        assert (strategy.steps[0].learning_rate, strategy.steps[0].data != ()) == (1.0, True)
        tuned = strategy.steps[1:]
        if name.endswith("-long") and tuned:
            assert (tuned[-1].updates, tuned[-1].learning_rate) == ((1.0,), 1.0)
            tuned = tuned[:-1]
        for step in tuned:
            assert 0.2 <= sum(step.updates) <= 0.3
            assert 0.1 <= step.learning_rate <= 0.2


@pytest.mark.parametrize(
    ("equal", "other"),
    [
        ("E2-1-equal", "E2-4"),
        ("E3-1-equal", "E3-3"),
        ("E3-1-long", "E3-3-long"),
        ("low-5-equal", "low-5-tuned"),
    ],
)
def test_equal_means_equally_many_updates(equal: str, other: str) -> None:
    found = read_strategies()
    for updates in UPDATES:
        totals = [sum(s.count(updates) for s in found[name].steps) for name in (equal, other)]
        assert totals[0] == totals[1]


def test_each_strategy_is_compared_with_what_it_shall_beat() -> None:
    found = read_strategies()
    for name in ("E2-2", "E2-3"):  # these take as many updates as E2-1
        assert found[name].against == ("E2-1", "E2-1-equal")
    for name in ("E2-4", "E2-5"):
        assert found[name].against == ("E2-1-equal", "E2-1")
    assert all(set(strategy.against) <= set(found) for strategy in found.values())


def test_strategies_are_chosen_by_name() -> None:
    found = read_strategies()
    assert [s.name for s in choose(found, ["E2-4", "E2-1", "E2-4"])] == ["E2-4", "E2-1"]
    assert found["E2-4"].needs("synthetic")
    assert not found["E2-1"].needs("synthetic")
    for names, seen in ((["E9"], "'E9'"), ([], "none")):
        with pytest.raises(MedpairError, match=rf"--strategies: {seen}, wanted some of E2-1, E2-1"):
            choose(found, names)


STEP = {"data": ["real"]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"steps": []}, r"a: steps \[\], wanted a list of at least one"),
        ({"stops": [STEP]}, r"a: .*wanted keys against, says, steps"),
        ({"steps": [{"data": []}]}, r"a: step 1: data \[\], wanted a list"),
        ({"steps": [STEP, {"data": ["unreal"]}]}, r"a: step 2: data unreal, wanted real, synth"),
        ({"steps": [{**STEP, "updates": 0}]}, r"a: step 1: updates 0, wanted a number above 0"),
        ({"steps": [{**STEP, "updates": True}]}, r"a: step 1: updates True, wanted"),
        ({"steps": [{**STEP, "updates": "z"}]}, r"a: step 1: updates of 'z', which is no strat"),
        ({"steps": [{**STEP, "updates": "a"}]}, r"a: step 1: updates 'a', wanted a number"),
        ({"steps": [{**STEP, "learning_rate": "x"}]}, r"learning_rate 'x', wanted a number"),
        ({"steps": [{"data": [{"set": "real", "times": -1}]}]}, r"times -1, wanted a number"),
        (
            {"steps": [{"data": [{"set": "real", "times": 1, "persons": 2}]}]},
            r"with times or persons at most",
        ),
        ({"steps": [STEP], "against": ["z"]}, r"a: against 'z', which is no strategy"),
    ],
)
def test_a_wrong_strategy_is_named(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"strategies": {"a": entry}}), encoding="utf-8")
    with pytest.raises(MedpairError, match=message) as error:
        read_strategies(path)
    assert str(error.value).startswith(f"{path}: a: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "strategies: 5", "a: [", "strategies:"])
def test_a_file_without_strategies_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MedpairError, match=r"mine\.yaml: no strategies \(.*write it like") as error:
        read_strategies(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_resampled_takes_each_mask_so_often(times: int) -> None:
    taken = take(Source("synthetic", times=times), RESAMPLED, 8, seed=4)
    assert not isinstance(taken, str)
    assert [i.id for i in taken] == [f"{m}_e{k + 1}" for m in MASKS for k in range(times)]


def test_ratios_are_nested_and_depend_on_the_seed() -> None:
    made = [item(f"s{n:02d}") for n in range(40)]
    taken = {
        (times, seed): take(Source("synthetic", times=times), made, 10, seed)
        for times in (0.5, 1, 2, 4)
        for seed in (0, 1)
    }
    assert [len(taken[times, 0]) for times in (0.5, 1, 2, 4)] == [5, 10, 20, 40]
    assert set(taken[0.5, 0]) < set(taken[1, 0]) < set(taken[2, 0])
    assert taken[2, 0] != taken[2, 1]
    wanted = "5 times 10 real pairs are 50, the synthetic set holds 40"
    assert take(Source("synthetic", times=5), made, 10, 0) == wanted


def test_few_persons_are_taken_with_all_their_scans() -> None:
    scans = [item(f"{p}-{n}", None, p) for p in "abcdefg" for n in range(2)]
    five, three = (take(Source("real", persons=n), scans, 14, 1) for n in (5, 3))
    assert not isinstance(five, str)
    assert not isinstance(three, str)
    assert len(five) == 2 * len({i.person for i in five}) == 10
    assert set(three) < set(five)
    assert take(Source("real", persons=9), scans, 14, 1) == "9 persons wanted, there are 7"
    assert take(Source("real"), [], 0, 0) == "real holds no training pair"


def test_folds_part_persons() -> None:
    scans = [item(f"{p}-{n}", None, p) for p in "abcdefg" for n in range(2)]
    parts = folds(scans, 3)
    assert sorted(len(part) for part in parts) == [2, 2, 3]
    assert sorted(person for part in parts for person in part) == list("abcdefg")
    for count in (1, 8):
        with pytest.raises(MedpairError, match=rf"--folds: {count}, wanted 2\.\.7, the number"):
            folds(scans, count)


def test_persons_and_not_files_are_kept_apart() -> None:
    """A pair shows the person of its mask, and the person whose slice its image began with."""
    test = [item("t1", None, "ann"), item("t2", None, "bob")]
    assert persons_of([item("x", "m", "carl", "ann")]) == {"carl", "ann"}
    refuse_shared_persons([item("t1b", None, "carl")], test, "set")
    for other in (item("z", None, "bob"), item("z", "t9", "carl", "ann")):
        shared = min(other.persons & {"ann", "bob"})
        with pytest.raises(
            MedpairError, match=rf"set: 1 test persons are in training \({shared}\)"
        ):
            refuse_shared_persons([item("y", None, "carl"), other], test, "set")
