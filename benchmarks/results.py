"""All that docs/results.md says of a preset, by one command: train, choose, judge, compare.

Every step is a command of its own, whose words and output lie in DIR/steps; what is finished is
kept, so the same call goes on where it was stopped, and a step whose words changed is done again.

    python benchmarks/results.py --data PAIRSET --preset small --minutes 60 --fast --out DIR
    python benchmarks/results.py --data PAIRSET --preset tiny --shipped --minutes 10 --out DIR

Generators come with two states: half of the budget and its end. The kept-back scans choose: the
state whose pairs are nearer to them, see `choose`; the audit of both is reported. Ends with
DIR/results.json, from which `results_page.py` writes the page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results_tables import collect, distance_to_kept_back, read
from steps import Steps, command, medpair, monai
from volumes import WIDTHS

from common.data.datasets import PairSet
from common.engines.weights import HALF
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.manifest import sha256
from common.pipeline import preset_geometry, read_pipeline

GROUPS = ("pairs", "baselines", "volumes", "compare")
GENERATORS = ("mcdpm_mask", "vid2vid_image", "sdm_refiner")
STRATEGIES = "E2-1,E2-1-equal,E2-2,E2-3,E2-4,E2-5,low-10-real,low-10-equal,low-10-both,low-10-tuned"
RESAMPLED = "E2-1,resampled-1x,resampled-2x,resampled-3x"
BASELINES = ("DDPM", "3D-alpha-WGAN", "Vid2Vid")
VOLUMES = ("GEM-3D", "Make-A-Volume", "Pix2Pix 3D", "3D LDM")
COPIES = 0.1
"""Share of pairs; some are near to a training scan by chance."""
LEAST_PERSONS = 4
"""Kept-back persons, of whom floors take halves."""
HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="pair set, kept-back scans in it")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--minutes", type=float, required=True, help="of each training stage")
    parser.add_argument("--shipped", action="store_true", help="our weights: those that ship")
    parser.add_argument("--fast", action="store_true", help="as of medpair train")
    parser.add_argument("--pairs", type=int, default=20, help="generated pairs to judge")
    parser.add_argument("--updates", type=int, default=1000, help="of GEM-3D and its baselines")
    parser.add_argument("--compared", type=int, default=2000, help="updates of segmenters")
    parser.add_argument("--seeds", default="0,1,2", help="of segmenters")
    parser.add_argument("--overlay", type=Path, help="of segmenters, as of medpair compare")
    parser.add_argument("--baselines", nargs="*", choices=BASELINES, default=list(BASELINES))
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


class Results:
    """The steps of one preset."""

    def __init__(self, words: argparse.Namespace) -> None:
        self.words, self.out, self.data = words, words.out.absolute(), words.data.absolute()
        self.step = Steps(self.out / "steps")
        self.geometry = preset_geometry(read_pipeline("medgen3d")["presets"], words.preset)
        self.weights = None if words.shipped else self.out / "weights"
        self.judged_by = {"preset": words.preset, "weights": self.weights}

    def train(self) -> None:
        """Train both pipelines, the segmenter that judges, and the ranges of its gate."""
        if self.weights is None:
            return
        words, bundle = self.words, "segmentation_eval"
        given = {"data": self.data, "preset": words.preset, "out": self.weights}
        given |= {"minutes": words.minutes, "fast": words.fast}
        self.step("train_medgen3d", medpair("train", "medgen3d", **given))
        self.step("train_gem3d", medpair("train", "gem3d", stages="volume", **given))
        keys = {"preset": words.preset, "dataset_dir": self.data}
        keys |= {"output_dir": self.weights / bundle}
        training = monai(bundle, "train", words.preset, **keys, minutes=words.minutes)
        self.step("train_segmenter", training)
        self.step("ranges", monai(bundle, "ranges", **keys))

    def pairs(self) -> None:
        """Generate, judge and audit pairs of each state of the weights; choose one."""
        states: dict[str, Path | None] = {"end": self.weights}
        if self.weights is not None:
            states = {HALF: half_time(self.weights, self.out / "weights_half"), **states}
        for name, weights in states.items():
            folder, made = self.out / name, self.out / name / "pairs"
            self.generate(f"generate_{name}", made, weights, n=self.words.pairs, seed=0)
            sets = {"real": self.data, "synthetic": made}
            judging = medpair("judge", **sets, out=folder / "judge", **self.judged_by)
            self.step(f"judge_{name}", judging)
            audit = medpair("audit", made, real=self.data, out=folder / "audit")
            self.step(f"audit_{name}", audit)
        found = choose(self.out, list(states), self.data, **self.judged_by)
        write_json(self.out / "chosen.json", found)

    def generate(
        self, name: str, out: Path, weights: Path | None, stages: str | None = None, **how: int
    ) -> None:
        """Generate pairs by MedGen3D."""
        # a gate would choose pairs by the network that judges them
        given = {"preset": self.words.preset, "weights": weights, "stages": stages, "out": out}
        given |= {"no_gate": stages is None}
        self.step(name, medpair("generate", "medgen3d", **how, **given))

    @property
    def chosen(self) -> str:
        """Name of the chosen state."""
        return str(read(self.out / "chosen.json")["state"])

    @property
    def best_weights(self) -> Path | None:
        """Folder of the chosen weights; None for those that ship."""
        half = self.out / "weights_half"
        return half if self.chosen == HALF else self.weights

    def baselines(self) -> None:
        """Train and sample the baselines of MedGen3D's Table 1, and judge all of them alike."""
        room, chosen = self.out / "baselines", self.words.baselines
        sets = [f"MedGen3D={self.out / self.chosen / 'pairs'}"]
        if "Vid2Vid" in chosen:
            how = {"n": self.words.pairs, "seed": 0}
            vid2vid = room / "vid2vid"
            self.generate("generate_vid2vid", vid2vid, self.best_weights, "mask,image", **how)
            sets.insert(0, f"Vid2Vid={vid2vid}")
        if "3D-alpha-WGAN" in chosen:
            sets.insert(0, f"3D-alpha-WGAN={self._wgan(room)}")
        ddpm = self._ddpm(room) if "DDPM" in chosen else None
        seen = {
            "data": self.data,
            "minutes": min(self.words.minutes, 5.0),
            "out": room / "slices.pt",
        }
        self.step("slice_network", command(HERE / "slice_network.py", **seen))
        given = {"real": self.data, "ddpm": ddpm, "set": sets, "out": room / "tables"}
        given |= {"slice_network": seen["out"]}
        table = command(HERE / "paper_tables.py", "medgen3d-1", **given, **self.judged_by)
        self.step("medgen3d-1", table)

    def _ddpm(self, room: Path) -> Path:
        """Train the 2D networks and draw slices; return their report."""
        data = {"preset": self.words.preset, "dataset_dir": self.data}
        trained, samples = room / "ddpm", room / "ddpm_samples"
        how = {"minutes": self.words.minutes, "output_dir": trained}
        self.step("train_ddpm", monai("sdm_refiner", "train_ddpm", **data, **how))
        how = {"weights": trained / "model.pt", "output_dir": samples, "slices_per_view": 160}
        self.step("sample_ddpm", monai("sdm_refiner", "sample_ddpm", **data, **how))
        return samples / "samples.json"

    def _wgan(self, room: Path) -> Path:
        """Train the alpha-WGAN and make its images; return their pair set."""
        words, trained, made = self.words, room / "wgan", room / "wgan_pairs"
        same = {"preset": words.preset, "size": json.dumps(list(self.geometry.size))}
        how = {"dataset_dir": self.data, "minutes": words.minutes, "output_dir": trained}
        training = monai("segmentation_eval", "train_alpha_wgan", **same, **how)
        self.step("train_wgan", training)
        drawn = {"weights": trained / "model.pt", "output_dir": made, "num": words.pairs}
        drawn |= {"spacing": json.dumps(list(self.geometry.spacing))}
        drawn |= {"segmenter_preset": words.preset}
        drawn |= {"segmenter_weights": self.weights} if self.weights else {}
        self.step("generate_wgan", monai("segmentation_eval", "alpha_wgan", **same, **drawn))
        return made

    def volumes(self) -> None:
        """Train GEM-3D and its baselines at equal updates; make new images for training masks."""
        room, given = self.out / "volumes", {"data": self.data, **self.judged_by}
        parts = self.weights and self.weights / "gem3d_volume"
        trained = {"out": room, "updates": self.words.updates}
        trained |= {"autoencoder": parts and parts / "autoencoder" / "model.pt"}
        only = command("--only", *VOLUMES)
        self.step("volumes", [*command(HERE / "volumes.py", **given, **trained), *only])
        mav, gem = (best_of(room / name) for name in ("Make-A-Volume", "GEM-3D"))
        made = {"gem": gem, "mav": mav, "out": self.out / "enhancement"}
        made |= {"slice_generator": parts and parts / "slice_generator" / "model.pt"}
        self.step("enhancement", command(HERE / "enhancement.py", **given, **made))

    def compare(self) -> None:
        """Train segmenters with and without pairs of both pipelines."""
        words, room = self.words, self.out / "compare"
        made = {name: room / name for name in ("medgen3d", "gem3d", "resampled")}
        self.generate("generate_60", made["medgen3d"], self.best_weights, n=60, seed=100)
        new = {"data": self.data, "times": 3, "seed": 100, **self.judged_by}
        self.step("enhance_3", medpair("enhance", **new, out=made["resampled"]))
        new |= {"mask_augmentation": True, "out": made["gem3d"]}
        self.step("enhance_60", medpair("enhance", **new))
        given = {"real": self.data, "networks": "unet3d", "seeds": words.seeds}
        given |= {"updates": words.compared, "generator_training": self.data}
        given |= {"preset": words.preset, "overlay": words.overlay}
        pairs = [f"{name}={made[name]}" for name in ("medgen3d", "gem3d")]
        tried = {"strategies": STRATEGIES, "synthetic": pairs, "out": room / "report"}
        self.step("compare", medpair("compare", **given, **tried))
        tried = {"strategies": RESAMPLED, "synthetic": f"resampled={made['resampled']}"}
        tried |= {"out": room / "report_resampled"}
        self.step("resampled", medpair("compare", **given, **tried))


def half_time(weights: Path, out: Path) -> Path:
    """Return a folder of weights whose generators are those of half of the budget.

    Args:
        weights: what was trained.
        out: the folder to make.
    """
    left_out = shutil.ignore_patterns("checkpoints", "mlruns*", "*.jsonl", "*.png")
    judge = "segmentation_eval"
    shutil.copytree(weights / judge, out / judge, dirs_exist_ok=True, ignore=left_out)
    for bundle in GENERATORS:
        if not (weights / bundle / HALF).is_dir():
            raise MedpairError(f"{weights / bundle / HALF}: none, wanted weights; train again")
        shutil.copytree(weights / bundle / HALF, out / bundle, dirs_exist_ok=True)
    return out


def best_of(contestant: Path) -> Path:
    """Return the weights of a contestant of `volumes.py` at its better learning rate."""
    scores = read(contestant / "rates.json")
    return contestant / f"seed0_rate{max(scores, key=lambda rate: scores[rate])}" / "model.pt"


def choose(
    out: Path, states: Sequence[str], data: Path, preset: str, weights: Path | None
) -> dict[str, Any]:
    """Choose a state of the weights by the scans that no training saw.

    That is the one whose images are nearer to them, by the distance of features in the mean of the
    views: what is learned by heart is not nearer to them. A state of whose pairs the audit calls
    more than `COPIES` copies is chosen only where all are.

    Args:
        out: folder with ``<state>/pairs`` and ``<state>/audit``.
        states: names.
        data: pair set of real scans.
        preset: of the segmenter whose encoder gives the features.
        weights: folder of its weights; None takes those that ship.

    Returns:
        ``state`` and, for each of ``states``, copies, pairs and distance.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in states:
        audit = read(out / name / "audit" / "audit.json")
        distance = distance_to_kept_back(out / name / "pairs", data, preset, weights)
        found[name] = {"copies": audit["n_copies"], "pairs": audit["n"], "distance": distance}

    def rank(name: str) -> tuple[bool, float]:
        state = found[name]
        return state["copies"] > COPIES * state["pairs"], state["distance"]

    return {"state": min(states, key=rank), "states": found}


def check(words: argparse.Namespace) -> None:
    """Refuse a pair set with too few kept-back persons, or a folder begun with other options."""
    pairs = PairSet.open(words.data)
    persons = {pairs.person(name) for name in pairs.ids("validation")}
    if len(persons) < LEAST_PERSONS:
        raise MedpairError(
            f"--data {words.data}: {len(persons)} persons kept back, wanted {LEAST_PERSONS} or "
            "more; prepare it with --persons"
        )
    if "volumes" in words.only and words.preset not in WIDTHS:
        raise MedpairError(
            f"--preset {words.preset}: volumes.py has widths of {', '.join(WIDTHS)}; leave "
            "the group out: --only pairs baselines compare"
        )
    kept = {k: str(v) for k, v in vars(words).items() if k not in ("out", "only", "baselines")}
    kept["manifest_sha256"] = sha256(pairs.manifest.path)
    path = words.out / "options.json"
    known = read(path)
    if known is None:
        write_json(path, kept)
    elif known != kept:
        names = ", ".join(key for key in kept if known.get(key) != kept[key])
        raise MedpairError(
            f"--out {words.out}: begun with other values of {names}; finished steps would not fit; "
            "give a new --out"
        )


def main() -> None:
    """Run what is missing."""
    words = arguments()
    check(words)
    results = Results(words)
    results.train()
    for group in GROUPS:
        if group in words.only:
            getattr(results, group)()
            write_json(words.out / "results.json", collect(words, results.step.seconds()))
    print(f"results: {words.out / 'results.json'}")


if __name__ == "__main__":
    try:
        main()
    except MedpairError as error:
        sys.exit(f"error: {error}")
