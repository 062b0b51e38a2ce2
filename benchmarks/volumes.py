"""GEM-3D beside its baselines on kept-back scans (the paper's Tables 2 and 3), at equal updates.

Trains every contestant with the same number of optimiser updates at its own learning rate (the one
of two whose whole training by the first seed meets the kept-back scans best), makes images for
the masks of the kept-back scans, where allowed with the scan's own middle slice, and judges all
alike. Diffusions sample in 10 steps and in 3, which draw less texture and come nearer to the very
scan. Finished parts are kept: started again, it goes on.

    python benchmarks/volumes.py --data PAIRSET --out DIR

Other presets (``--preset small --autoencoder PT --weights DIR``) take that preset's networks; the
widths of the baselines are those whose number of parameters comes near to GEM-3D's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import SEGMENTER, of_schema, segmenter_of, shipped_part
from tables import write_table

from common.data.datasets import PairSet
from common.engines.shards import read_state
from common.engines.weights import read_card
from common.io.atomic import write_json
from common.io.manifest import sha256
from common.metrics.extractors import MapExtractor
from common.metrics.image_report import ImageSet, judge_images, read_images
from common.metrics.perceptual import map_distance
from common.metrics.values import mean_of
from common.stages import open_key, open_workflow, weights_path

BUNDLE = "gem3d_volume"
SEEDS = (0, 1)
STEPS = (10, 3)
"""Of diffusions, the first also where learning rates are chosen."""
NEVER = 10**6


@dataclass(frozen=True)
class Contestant:
    """A network and how it is trained and used.

    Attributes:
        trainings: name of each training config and its share of the updates.
        infer: config that makes the images.
        network: overrides of all configs.
        training: overrides of the trainings alone.
        sampling: overrides of the inference config alone.
        rates: learning rates to choose from.
        weights: weight file below the working folder.
        steps: sampling steps; None where there are none.
    """

    trainings: tuple[tuple[str, float], ...]
    infer: str
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = (0.002, 0.004)
    weights: str = "model.pt"
    steps: tuple[int | None, ...] = STEPS


TWO_STAGES = (("train_slice", 0.6), ("train", 0.4))
# as in the paper: nobody is guided, and without a slice nobody can know of changed intensities
PLAIN = {"augment#jitter": 0.0}
WHOLE = {"mask_dropout": 0.0, "informed_dropout": 0.0, "both_dropout": 0.0, **PLAIN}
LATENT = {"network_def#head_channels": 8, "mask_code": "subpixel", "contour": True}
WIDTHS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "tiny": {
        "pix2pix": {"network_def#channels": [16, 32, 64, 144, 288]},
        "ldm3d": {"network_def#channels": [32, 88]},
    },
    "small": {
        "pix2pix": {"network_def#channels": [20, 40, 80, 160, 328]},
        "ldm3d": {"network_def#channels": [40, 96]},
    },
}
"""By preset and inference config: widths of baselines."""


def gem(**changes: Any) -> Contestant:
    """Return GEM-3D with other ways of injection or sizes."""
    return Contestant(TWO_STAGES, "inference", changes, WHOLE)


def pix2pix(informed: bool) -> Contestant:
    """Return 3D Pix2Pix, with or without the true slice."""
    return Contestant(
        (("train_pix2pix", 1.0),),
        "pix2pix",
        {"informed": informed},
        PLAIN,
        rates=(0.001, 0.002),
        weights="pix2pix/model.pt",
        steps=(None,),
    )


def ldm3d(informed: bool) -> Contestant:
    """Return 3D latent diffusion, with or without the true slice."""
    return Contestant(
        (("train_ldm3d", 1.0),),
        "ldm3d",
        {"informed": informed, **LATENT},
        PLAIN,
        weights="ldm3d/model.pt",
    )


CONTESTANTS = {
    "GEM-3D": gem(),
    "Make-A-Volume": Contestant(
        TWO_STAGES,
        "inference",
        {"informed_injection": "none"},
        WHOLE,
        {"use_informed": False, "overlapped_inpainting": False},
    ),
    "Pix2Pix 3D": pix2pix(False),
    "Pix2Pix 3D, true slice": pix2pix(True),
    "3D LDM": ldm3d(False),
    "3D LDM, true slice": ldm3d(True),
    "GEM-3D, cross-attention": gem(informed_injection="cross_attention", channels=[64, 104]),
    "GEM-3D, ControlNet": gem(
        informed_injection="controlnet", mask_injection="controlnet", channels=[48, 96]
    ),
}
COLUMNS = (
    "contestant", "seed", "parameters", "learning rate", "CPU min", "steps", "MS-SSIM", "MS-SSIM A",
    "PSNR", "LPIPS-type", "FID/floor A", "FID/floor C", "FID/floor S", "Dice",
    "seconds",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="pair set of real scans")
    parser.add_argument("--autoencoder", type=Path, help="its weights; default: the shipped ones")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--rate", type=float, help="for all, instead of choosing one for each")
    parser.add_argument("--only", nargs="*", choices=list(CONTESTANTS), help="some contestants")
    parser.add_argument("--preset", default="tiny", choices=list(WIDTHS))
    parser.add_argument("--weights", help="folder of the segmenter's weights; default: shipped")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    return parser.parse_args()


def train(
    words: argparse.Namespace,
    one: Contestant,
    work: Path,
    seed: int,
    rate: float,
) -> float:
    """Train a contestant; return the CPU seconds, or those of the run that finished before."""
    done, settings = work / "trained.json", {"learning_rate": rate, "updates": words.updates}
    if done.is_file():
        found = json.loads(done.read_text())
        if settings.items() <= found.items():
            return float(found["cpu_seconds"])
        shutil.rmtree(work)
    began = time.process_time()
    for name, share in one.trainings:
        overrides = {
            "dataset_dir": words.data,
            "output_dir": str(work),
            "seed": seed,
            "learning_rate": rate,
            "max_iterations": round(share * words.updates),
            "val_interval": NEVER,
            "progress": False,
            **of_schema(words.data),
            **({} if name == "train_pix2pix" else {"autoencoder_weights": words.autoencoder}),
            **({"slice_generator_weights": None} if name == "train" else {}),
            "preset": words.preset,
            **one.network,
            **WIDTHS[words.preset].get(one.infer, {}),
            **one.training,
        }
        open_workflow(BUNDLE, name, words.preset, overrides).run()
    seconds = time.process_time() - began
    write_json(done, {"cpu_seconds": seconds, **settings})
    return seconds


def images_of(
    words: argparse.Namespace, one: Contestant, work: Path, steps: int | None, draw: int = 0
) -> tuple[ImageSet, float]:
    """Make the images of the kept-back masks; return them and the seconds per volume.

    Args:
        words: the command line.
        one: the contestant.
        work: folder of its training.
        steps: sampling steps; None where there are none.
        draw: seed of the sampling.
    """
    name = f"pairs{steps or ''}" + (f"_draw{draw}" if draw else "")
    pairs, weights = work / name, work / one.weights
    speed = pairs.with_suffix(".json")
    began = time.perf_counter()
    extra: dict[str, Any] = {
        "inference": {"slice_generator_def": None},
        "ldm3d": {"autoencoder_weights": words.autoencoder},
    }.get(one.infer, {})
    if steps:
        extra |= {"num_steps": steps, "seed": draw}
    overrides = {
        "dataset_dir": words.data,
        "output_dir": str(pairs),
        "weights": str(weights),
        **of_schema(words.data),
        **extra,
        "preset": words.preset,
        **one.network,
        **WIDTHS[words.preset].get(one.infer, {}),
        **one.sampling,
    }
    if not (pairs / "dataset.json").is_file():
        open_workflow(BUNDLE, one.infer, words.preset, overrides).run()
        seconds = (time.perf_counter() - began) / len(PairSet.open(pairs).ids())
        write_json(speed, {"seconds": seconds})
    return read_images(pairs), float(json.loads(speed.read_text())["seconds"])


def autoencoder_for(data: str, weights: Path | None, out: Path) -> str:
    """Write autoencoder weights for a pair set's schema: they have seen images alone.

    Args:
        data: the pair set.
        weights: of an autoencoder; None takes it out of the weights that ship.
        out: folder for the copy.
    """
    path = out / "autoencoder.pt"
    out.mkdir(parents=True, exist_ok=True)
    given = weights and read_state(weights)
    torch.save(given or shipped_part("autoencoder", "tiny"), path)
    card = read_card(weights or weights_path(BUNDLE, "tiny"))
    schema = PairSet.open(data).schema.name
    write_json(path.with_suffix(".json"), card | {"schema": schema, "sha256": sha256(path)})
    return str(path)


class Judge:
    """The scans and all that judges images."""

    def __init__(self, data: str, preset: str = "tiny", weights: str | None = None) -> None:
        self.schema = PairSet.open(data).schema
        self.held_out, self.training = (read_images(data, s) for s in ("validation", "training"))
        self.features = open_key(SEGMENTER, "features", preset, weights)
        self.segment = segmenter_of(data, preset, weights)

    def row(self, made: ImageSet) -> dict[str, Any]:
        """Return the scores of images made for all kept-back masks."""
        assert list(made.ids) == list(self.held_out.ids)
        report: Any = judge_images(
            made,
            self.held_out,
            self.schema,
            real=self.held_out.images,
            training=self.training,
            extractors=[MapExtractor(self.features, "encoder")],
            segment=self.segment,
        )
        mean, distances = report["fidelity"]["mean"], report["features"]["encoder"]
        pairs = zip(made.images, self.held_out.images, strict=True)
        perceived = [map_distance(self.features, image, scan) for image, scan in pairs]
        return {
            "MS-SSIM": mean["3D"]["ms_ssim"],
            "MS-SSIM A": mean["A"]["ms_ssim"],
            "PSNR": mean["3D"]["psnr"],
            "LPIPS-type": mean_of(perceived, "no image"),
            **{f"FID/floor {v}": distances["views"][v]["fid"]["ratio"] for v in "ACS"},
            "Dice": report["alignment"]["mean"]["dice"] if self.segment else report["alignment"],
        }


def best_rate(words: argparse.Namespace, judge: Judge, name: str, one: Contestant) -> float:
    """Return the learning rate whose training by the first seed gives the highest PSNR."""
    work = words.out / name.replace(" ", "_")
    scores = {}
    for rate in one.rates if words.rate is None else [words.rate]:
        folder = work / f"seed{words.seeds[0]}_rate{rate:g}"
        train(words, one, folder, words.seeds[0], rate)
        made, _ = images_of(words, one, folder, one.steps[0])
        pairs = zip(made.images, judge.held_out.images, strict=True)
        errors = [float(np.square(image - scan).mean()) for image, scan in pairs]
        scores[rate] = -10 * float(np.log10(np.mean(errors)))
    write_json(work / "rates.json", {f"{rate:g}": score for rate, score in scores.items()})
    return max(scores, key=lambda rate: scores[rate])


def rows(words: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train, run and judge every contestant, first seed first."""
    judge, rates = Judge(words.data, words.preset, words.weights), dict[str, float]()
    for seed in words.seeds:
        for name in words.only or CONTESTANTS:
            one = CONTESTANTS[name]
            if name not in rates:
                rates[name] = best_rate(words, judge, name, one)
            rate = rates[name]
            work = words.out / name.replace(" ", "_") / f"seed{seed}_rate{rate:g}"
            cpu = train(words, one, work, seed, rate)
            for steps in one.steps:
                path = work / f"row{steps or ''}.json"
                if not path.is_file():
                    made, seconds = images_of(words, one, work, steps)
                    row = {
                        "contestant": name,
                        "seed": seed,
                        "parameters": parameters(one, work),
                        "learning rate": rate,
                        "CPU min": round(cpu / 60, 1),
                        "steps": steps or "-",
                        **judge.row(made),
                        "seconds": round(seconds, 2),
                    }
                    write_json(path, row)
                yield json.loads(path.read_text())


def parameters(one: Contestant, work: Path) -> int:
    """Return how many numbers a contestant's own network has, the shared autoencoder apart."""
    state = read_state(work / one.weights)
    own = {k: v for k, v in state.items() if not k.startswith("autoencoder.")}
    return sum(value.numel() for value in own.values())


def main() -> None:
    """Run what is missing and write ``volumes.md``."""
    words = arguments()
    words.autoencoder = autoencoder_for(words.data, words.autoencoder, words.out)
    found = []
    for row in rows(words):
        found.append(row)
        sys.stderr.write(f"{row}\n")
        write_table(words.out / "volumes", found, COLUMNS, f"{words.updates} updates\n\n")


if __name__ == "__main__":
    main()
