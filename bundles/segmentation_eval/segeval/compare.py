"""Do synthetic pairs help? Trains networks by strategies, tests them on real scans, compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import MedpairError
from common.io.atomic import write_json, write_text
from common.io.lock import exclusive
from common.io.manifest import versions
from common.progress import Progress, silent
from segeval.card import check_card, update_card
from segeval.cells import Recipe, Workshop, open_recipe
from segeval.networks import ARCHITECTURES, UNETR_PATCH
from segeval.outcome import Tested, report
from segeval.plan import Sets, Trial, divide, open_sets, plan
from segeval.pools import open_pool
from segeval.strategies import Strategy, choose, read_strategies
from segeval.table import table

FORMAT = "medpair-compare-1"


@dataclass(frozen=True)
class Comparison:
    """Compare training strategies on scans that no training sees.

    Args:
        real: pair set of real scans.
        output_dir: gets ``compare.json``, ``compare.md``, the card and ``cells/``.
        synthetic: generated pair sets, each "NAME=FOLDER" or a folder, whose name it then has;
            their split "training" is used.
        target: pair set of real scans that strategies E3 go on to.
        test: pair set of the test cases: all of it, or its split "validation" where it is also
            trained on; None takes that split of the target, or else of the real scans.
        networks: architectures, see `segeval.networks`.
        strategies: names in ``configs/strategies.yaml``.
        definitions: another file of strategies.
        seeds: of first weights, draws of batches, and draws of pairs where a strategy draws.
        updates: optimiser updates of a full training; None takes the preset's.
        folds: cross-validation over the persons of the real scans, with so many folds; None tests
            on the test set.
        generator_training: pair set whose split "training" the generators were trained on.
        preset: size of networks and trainings.
        overlay: YAML file of further values for train.yaml, by config key.
        tolerance: distance in mm up to which surfaces agree; None takes the longest voxel edge.
        card: what card stands beside the report: "all", "generated" (no slices of real scans) or
            "none".
    """

    real: str
    output_dir: str
    synthetic: Sequence[str] = ()
    target: str | None = None
    test: str | None = None
    networks: Sequence[str] = ("unet3d",)
    strategies: Sequence[str] = ("E2-1",)
    definitions: str | None = None
    seeds: Sequence[int] = (0, 1, 2)
    updates: int | None = None
    folds: int | None = None
    generator_training: str | None = None
    preset: str = "tiny"
    overlay: str | None = None
    tolerance: float | None = None
    card: str = "all"

    def __call__(self, progress: Progress | None = None) -> dict[str, Any]:
        """Make the missing cells and write the report.

        Args:
            progress: called with ("cells", finished, all).

        Returns:
            The content of ``compare.json``; its ``problems`` name pairs that were left out.

        Raises:
            MedpairError: for sets that do not fit together, a person in training and in test, or
                values outside their range.
        """
        strategies = choose(read_strategies(self.definitions), self.strategies)
        self._check(strategies)
        check_card(self.card)
        sets = open_sets(self.real, self.synthetic, self.target, self.test)
        tolerance = self._tolerance(sets)
        recipes = self._recipes(sets)
        divisions = divide(sets, self.folds)
        trials, lacking = plan(sets, strategies, recipes, self.seeds, divisions, self.updates)
        seen = self._seen(sets)
        out = Path(self.output_dir)
        with exclusive(out):
            tested = self._run(trials, sets, recipes, tolerance, progress or silent)
            content = {
                "format": FORMAT,
                "settings": self._settings(sets, recipes, tolerance),
                "problems": [line for pool in sets.all for line in pool.problems],
                **report(sets.real.pairset.schema, strategies, tested, lacking, seen),
            }
            write_json(out / "compare.json", content)
            write_text(out / "compare.md", table(content))
            made = [pool.dir for pool in sets.synthetic.values()]
            update_card("compare", self.output_dir, self.real, made, self.card)
        return content

    def _check(self, strategies: Sequence[Strategy]) -> None:
        unknown = [name for name in self.networks if name not in ARCHITECTURES]
        if unknown or not self.networks:
            found = repr(unknown[0]) if unknown else "none"
            raise MedpairError(f"--networks: {found}, wanted some of {', '.join(ARCHITECTURES)}")
        if not self.real:
            raise MedpairError("--real: none, wanted a pair set of real scans; give its folder")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise MedpairError(f"--seeds: {list(self.seeds)}, wanted different numbers >= 0")
        if self.updates is not None and self.updates < 1:
            raise MedpairError(f"--updates: {self.updates}, wanted >= 1; train longer")
        if self.folds is not None and (self.test or self.target):
            raise MedpairError("--folds: tests on --real itself; leave --test and --target out")
        for kind, given in (("synthetic", self.synthetic), ("target", self.target)):
            wanting = [s.name for s in strategies if s.needs(kind)]
            if wanting and not given:
                raise MedpairError(f"--{kind}: none, wanted one for {wanting[0]}; give --{kind}")

    def _tolerance(self, sets: Sets) -> float:
        spacing = sets.real.pairset.spacing
        if spacing is None:
            raise MedpairError(
                f"{self.real}: its spacing differs from pair to pair, wanted one for distances in "
                "mm; prepare it with --spacing"
            )
        return float(self.tolerance or max(spacing))

    def _recipes(self, sets: Sets) -> dict[str, Recipe]:
        overlay = _overlay(self.overlay)
        roi = overlay.get("roi_size")
        sides = roi or [max(n) for n in zip(*(pool.size for pool in sets.all), strict=True)]
        fitting = {"sizes::unetr::img_size": [n + -n % UNETR_PATCH for n in sides]}
        schema = sets.real.pairset.schema
        values = {**fitting, **overlay}
        return {name: open_recipe(name, self.preset, values, schema) for name in self.networks}

    def _run(
        self,
        trials: Sequence[Trial],
        sets: Sets,
        recipes: Mapping[str, Recipe],
        tolerance: float,
        progress: Progress,
    ) -> list[Tested]:
        out = Path(self.output_dir)
        shop = Workshop(out / "cells", out / "run.jsonl")
        total = len({cell.key for trial in trials for cell in trial.cells}) + len(trials)
        made: set[str] = set()
        tested = []
        for number, trial in enumerate(trials):
            recipe = recipes[trial.arm.network]
            for cell in trial.cells:
                progress("cells", len(made) + number, total)
                shop.train(cell, recipe)
                made.add(cell.key)
            last = trial.cells[-1]
            tested.append(
                Tested(trial, shop.score(last, recipe, sets.tested, trial.cases, tolerance))
            )
        progress("cells", total, total)
        return tested

    def _seen(self, sets: Sets) -> dict[str, tuple[frozenset[str], bool]]:
        """By synthetic set: persons its generator is known to have seen, and if these are all."""
        known = self.generator_training is not None
        given: frozenset[str] = frozenset()
        if self.generator_training is not None:
            pool = open_pool("generator training", self.generator_training)
            given = frozenset(item.person for item in pool.of("training"))
        return {
            name: (given.union(*(item.persons for item in pool.items)), known)
            for name, pool in sets.synthetic.items()
        }

    def _settings(
        self, sets: Sets, recipes: Mapping[str, Recipe], tolerance: float
    ) -> dict[str, Any]:
        return {
            "real": sets.real.settings(),
            "synthetic": [pool.settings() for pool in sets.synthetic.values()],
            "target": sets.target and sets.target.settings(),
            "test": sets.tested.settings(),
            "networks": {
                name: {
                    "options": recipe.config["sizes"][name],
                    "learning_rate": recipe.learning_rate(1.0),
                    "updates": self.updates or recipe.updates,
                }
                for name, recipe in recipes.items()
            },
            "strategies": list(self.strategies),
            "seeds": list(self.seeds),
            "folds": self.folds,
            "generator_training": self.generator_training and Path(self.generator_training).name,
            "preset": self.preset,
            "tolerance_mm": tolerance,
            "versions": versions("medpair", "torch", "monai", "scipy"),
        }


def _overlay(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return dict(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise MedpairError(f"--overlay: {path}: no YAML mapping ({reason}); correct it") from error
