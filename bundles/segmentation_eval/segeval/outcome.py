"""What trials say: means per arm, and differences between arms with their uncertainty.

Seeds are averaged within a case before anything else; persons are what intervals re-draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.data.labels import LabelSchema
from common.metrics.realism import scored_labels
from common.metrics.statistics import adjust, bootstrap_interval, by_person, signed_rank
from common.metrics.values import Value, mean_of, not_computed
from segeval.plan import Arm, Trial
from segeval.scores import Scores, summarise
from segeval.strategies import Strategy

MEASURES = ("dice", "hd95_mm", "surface_dice")
Cases = dict[str, dict[str, Scores]]
"""By case and by label or group."""
Seen = Mapping[str, tuple[frozenset[str], bool]]
"""By synthetic set: persons that its generator is known to have seen, and whether these are all."""
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Tested:
    """A trial and its scores."""

    trial: Trial
    scores: Mapping[str, Mapping[str, Scores]]


@dataclass(frozen=True)
class Result:
    """All trials of an arm together.

    Attributes:
        cases: scores, averaged over seeds.
        persons: of each case.
        seeds: scores by seed.
    """

    cases: Cases
    persons: Mapping[str, str]
    seeds: Mapping[int, Cases]


def report(
    schema: LabelSchema,
    strategies: Sequence[Strategy],
    tested: Sequence[Tested],
    lacking: Mapping[Arm, str],
    seen: Seen,
) -> dict[str, Any]:
    """Return the results of a comparison, ready for JSON.

    Args:
        schema: of all masks.
        strategies: that were run.
        tested: all trials.
        lacking: arms that there were not enough pairs for, and why.
        seen: whom the generators saw.

    Returns:
        ``arms``: for each network, strategy and synthetic set what its steps were, the means
        (`summarise`) over cases, the same per seed, and every case; ``differences``: of two arms,
        see `compare_arms`.
    """
    by_name = {strategy.name: strategy for strategy in strategies}
    trials: dict[Arm, list[Tested]] = {}
    for one in tested:
        trials.setdefault(one.trial.arm, []).append(one)
    results = {arm: _gather(found) for arm, found in trials.items()}
    arms = [
        asdict(arm) | _arm(results[arm], found, by_name[arm.strategy], schema, _of(arm, seen))
        for arm, found in trials.items()
    ]
    arms += [asdict(arm) | {"result": not_computed(why)} for arm, why in lacking.items()]
    differences = [
        asdict(arm) | {"against": other} | _difference(arm, other, by_name, results, schema, seen)
        for arm in results
        for other in by_name[arm.strategy].against
    ]
    return {"arms": arms, "differences": differences}


def _of(arm: Arm, seen: Seen) -> tuple[frozenset[str], bool] | None:
    return None if arm.synthetic is None else seen[arm.synthetic]


def _gather(found: Sequence[Tested]) -> Result:
    seeds: dict[int, Cases] = {}
    persons: dict[str, str] = {}
    for one in found:  # a trial per seed and fold; folds have different cases
        cases = seeds.setdefault(one.trial.seed, {})
        cases.update({name: dict(scores) for name, scores in one.scores.items()})
        persons |= {item.id: item.person for item in one.trial.cases}
    return Result(average(list(seeds.values())), persons, seeds)


def average(seeds: Sequence[Mapping[str, Mapping[str, Scores]]]) -> Cases:
    """Average the scores of each case over seeds; where no seed has a number, a reason stays.

    Args:
        seeds: scores by case, one mapping per seed, of the same cases.
    """

    def mean(case: str, region: str, measure: str) -> Value:
        values = [scores[case][region][measure] for scores in seeds]
        reason = next((v for v in values if isinstance(v, str)), "")
        return mean_of(values, reason.removeprefix("not computed: "))

    return {
        case: {
            region: {measure: mean(case, region, measure) for measure in measures}
            for region, measures in regions.items()
        }
        for case, regions in seeds[0].items()
    }


def _arm(
    result: Result,
    found: Sequence[Tested],
    strategy: Strategy,
    schema: LabelSchema,
    seen: tuple[frozenset[str], bool] | None,
) -> dict[str, Any]:
    cases = {}
    for name, scores in result.cases.items():
        person = result.persons[name]
        cases[name] = {"person": person, "generator_saw": saw(person, seen), "scores": scores}
    return {
        "says": strategy.says,
        "steps": _steps(found[0].trial, strategy),
        "n_cases": len(result.cases),
        "n_persons": len(set(result.persons.values())),
        **summarise(result.cases, schema),
        "seeds": {str(seed): summarise(scores, schema) for seed, scores in result.seeds.items()},
        "cases": cases,
    }


def _steps(trial: Trial, strategy: Strategy) -> list[dict[str, Any]]:
    """The steps of one trial; those of other seeds and folds differ in the pairs drawn."""
    return [
        {
            "pairs": {
                source.set: len(part["pairs"])
                for source, part in zip(step.data, cell.inputs["data"], strict=True)
            },
            "updates": cell.inputs["updates"],
            "learning_rate": cell.inputs["learning_rate"],
            "cell": cell.key,
        }
        for step, cell in zip(strategy.steps, trial.cells, strict=True)
    ]


def saw(person: str, seen: tuple[frozenset[str], bool] | None) -> bool | str | None:
    """Return whether the generator of the synthetic pairs was trained on a test person.

    Args:
        person: of a test case.
        seen: persons known to be seen, and whether these are all; None without synthetic pairs.

    Returns:
        True, False, "not known", or None without synthetic pairs.
    """
    if seen is None:
        return None
    persons, complete = seen
    return person in persons or (False if complete else NOT_KNOWN)


def _difference(
    arm: Arm,
    other: str,
    strategies: Mapping[str, Strategy],
    results: Mapping[Arm, Result],
    schema: LabelSchema,
    seen: Seen,
) -> dict[str, Any]:
    uses = other in strategies and strategies[other].needs("synthetic")
    reference = Arm(arm.network, other, arm.synthetic if uses else None)
    if reference not in results:
        return {"measures": not_computed(f"{other} was not run")}
    pair = results[arm], results[reference]
    everybody = compare_arms(*pair, schema)
    marks = {name: saw(pair[0].persons[name], _of(arm, seen)) for name in pair[0].cases}
    unseen = [name for name, mark in marks.items() if mark is not True]
    if len(unseen) == len(marks):
        return everybody
    if not unseen:
        return everybody | {"unseen": not_computed("the generator saw all test persons")}
    return everybody | {"unseen": compare_arms(*pair, schema, unseen)}


def compare_arms(
    result: Result, reference: Result, schema: LabelSchema, only: Iterable[str] | None = None
) -> dict[str, Any]:
    """Compare two arms case by case.

    Args:
        result: the one.
        reference: the other; differences are the one minus the other.
        schema: of all masks.
        only: names of the cases that count; None for all.

    Returns:
        ``n_cases``, ``n_persons``; ``measures``: for Dice, HD95 and surface Dice ``mean`` (over
        the labels without the container), ``labels``, and where the schema has them ``groups``:
        each ``mean``, ``low``, ``high`` (95 % by re-drawn persons), ``n_persons``, ``p`` (signed
        rank over persons); labels and groups ``q`` too, p corrected for their number.
    """
    names = [name for name in (result.cases if only is None else only) if name in reference.cases]
    persons = {name: result.persons[name] for name in names}
    measures = {m: _measure(m, names, result, reference, schema) for m in MEASURES}
    return {
        "n_cases": len(names),
        "n_persons": len(set(persons.values())),
        "measures": measures,
    }


def _measure(
    measure: str, names: Sequence[str], result: Result, reference: Result, schema: LabelSchema
) -> dict[str, Any]:
    def tested(regions: Sequence[str]) -> dict[str, Value]:
        gaps = {
            name: _gap(*(_mean(r.cases[name], regions, measure) for r in (result, reference)))
            for name in names
        }
        cases = by_person(gaps, result.persons)
        return {**bootstrap_interval(cases), "n_persons": len(cases), "p": signed_rank(cases)}

    labels = [item.name for item in scored_labels(schema)]
    found: dict[str, Any] = {"mean": tested(labels), "labels": _family(labels, tested)}
    if schema.groups:
        found["groups_mean"] = tested(list(schema.groups))
        found["groups"] = _family(list(schema.groups), tested)
    return found


def _family(names: Sequence[str], tested: Any) -> dict[str, dict[str, Value]]:
    rows: dict[str, dict[str, Value]] = {name: tested([name]) for name in names}
    corrected = adjust({name: row["p"] for name, row in rows.items()})
    return {name: row | {"q": corrected[name]} for name, row in rows.items()}


def _mean(scores: Mapping[str, Scores], regions: Sequence[str], measure: str) -> Value:
    return mean_of(scores[region][measure] for region in regions)


def _gap(one: Value, other: Value) -> Value:
    for value in (one, other):
        if isinstance(value, str):
            return value
    return float(one) - float(other)
