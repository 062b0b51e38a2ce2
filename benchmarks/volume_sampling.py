"""How should GEM-3D sample? Steps, guidance, overlap, and what the paper's parts are worth.

Makes an image for every kept-back mask, from the scan's own middle slice, with every setting and
judges it; writes ``sampling.md``. Finished settings are kept: started again, it goes on.
"brightness" is the mean difference of the slices' mean intensities; one setting darkens the scans.
`--slices` adds ablation C.2: the slice network without volumetric tuning.

    python benchmarks/volume_sampling.py --data PAIRSET --out DIR [--weights DIR] [--slices PT]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import SHOWN
from tables import write_table

from common.data.datasets import PairSet
from common.data.pictures import image_rows, label_rows, save_rows
from common.io.atomic import write_json
from common.metrics.consistency import seam_index
from common.metrics.extractors import MapExtractor
from common.metrics.image_report import judge_images, read_images
from common.metrics.perceptual import map_distance
from common.metrics.values import mean_of
from common.stages import open_key, open_workflow, weights_path
from gem3d.generate import InformedSlice, VolumeGenerator
from gem3d.model import Gem3D, volumetric_start
from gem3d.volumes import to_image

BUNDLE = "gem3d_volume"
OFFICIAL = {"known_noise": "official", "tail": "official"}
PAPER = {"sampler": "ddim", "num_steps": 200, "eta": 1.0}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    **{f"{n} steps": {"num_steps": n} for n in (3, 5, 20, 30, 50)},
    "ddim": {"sampler": "ddim"},
    "ddim, 200 steps, eta 1 (paper)": PAPER,
    "paper, official": PAPER | OFFICIAL,
    "official known noise": {"known_noise": "official"},
    "official tail": {"tail": "official"},
    "official both": OFFICIAL,
    "no overlapped inpainting (C.1)": {"overlapped_inpainting": False},
    "overlap 2": {"overlap": 2},
    "overlap 4": {"overlap": 4},
    "RePaint, 2 passes": {"resample": 2, "jump": 2},
    **{f"informed guidance {s}": {"guidance_informed": s} for s in (1.25, 1.5, 2.0)},
    **{f"mask guidance {s}": {"guidance_mask": s} for s in (1.25, 1.5, 2.0)},
    "both guided 1.5": {"guidance_informed": 1.5, "guidance_mask": 1.5},
}
UNTUNED = "no volumetric tuning (C.2)"
IMPOSED = "own slice imposed"
DARK = "scans darkened to 85 %"
DIMMED = {DARK: 0.85}
COLUMNS = (
    "setting", "MS-SSIM", "MS-SSIM A", "PSNR", "LPIPS-type", "FID/floor A", "FID/floor C",
    "FID/floor S", "seam index", "odd_even D", "brightness", "Dice", "seconds per volume",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="pair set of real scans")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", help="folder that `medpair train` wrote; default: shipped")
    parser.add_argument("--slices", help="weights of the slice network, for ablation C.2")
    parser.add_argument("--only", nargs="*", help="some settings")
    return parser.parse_args()


def brightness_error(image: np.ndarray, scan: np.ndarray, label: np.ndarray) -> float:
    """Return the mean over slices of |mean foreground intensity of the image - of the scan|."""
    found = [
        abs(float(made[shown].mean() - real[shown].mean()))
        for made, real, shown in zip(image, scan, label > 0, strict=True)
        if shown.sum() >= SHOWN
    ]
    return float(np.mean(found))


class Bench:
    """Trained networks, kept-back scans, and all that judges images."""

    def __init__(self, words: argparse.Namespace) -> None:
        path = weights_path(BUNDLE, words.preset, words.weights)
        overrides = {"weights": str(path), "preset": words.preset}
        workflow = open_workflow(BUNDLE, "inference", words.preset, overrides)
        self.generator: VolumeGenerator = workflow.parser.get_parsed_content("generator")
        self.schema = PairSet.open(words.data).schema
        self.held_out, self.training = (
            read_images(words.data, s) for s in ("validation", "training")
        )
        self.features = open_key("segmentation_eval", "features", words.preset)
        self.segment = open_key("segmentation_eval", "segment", words.preset)

    def untuned(self, path: str, preset: str) -> VolumeGenerator:
        """Return the generator with the slice network in the volume network's place."""
        fresh = open_workflow(BUNDLE, "inference", preset, {}).parser.get_parsed_content(
            "volume_def"
        )
        autoencoder = self.generator.network.autoencoder
        volume = volumetric_start(fresh, path, self.schema.name, preset, autoencoder)
        return replace(self.generator, network=Gem3D(autoencoder, volume.eval()))

    def images(
        self, generator: VolumeGenerator, scans: Sequence[np.ndarray], impose: bool
    ) -> tuple[list[np.ndarray], list[int], float]:
        """Return images of all masks, their start slices and the seconds per volume."""
        labels = torch.from_numpy(np.stack(self.held_out.labels))
        middle = labels.shape[1] // 2
        informed = [
            InformedSlice(to_image(scan)[middle], middle, name, impose)
            for name, scan in zip(self.held_out.ids, scans, strict=True)
        ]
        began = time.perf_counter()
        made = generator(labels, informed, volumes=range(len(labels)), seed=0)
        seconds = (time.perf_counter() - began) / len(labels)
        return list(((made + 1) / 2).numpy()), [middle] * len(labels), seconds

    def row(self, name: str, generator: VolumeGenerator, out: Path) -> dict[str, Any]:
        """Make the images of one setting and return their scores."""
        scans = [scan * DIMMED.get(name, 1) for scan in self.held_out.images]
        images, starts, seconds = self.images(generator, scans, name == IMPOSED)
        self._draw(images, out / f"{name.replace(' ', '_').replace(',', '')}.png")
        report: Any = judge_images(
            replace(self.held_out, images=images),
            self.held_out,
            self.schema,
            real=scans,
            training=self.training,
            extractors=[MapExtractor(self.features, "encoder")],
            segment=self.segment,
        )
        mean, views = report["fidelity"]["mean"], report["features"]["encoder"]["views"]
        seams = [
            seam_index(image, label, generator.sampler.plan(len(image), start).joints, axis=0)
            for image, label, start in zip(images, self.held_out.labels, starts, strict=True)
        ]
        pairs = list(zip(images, scans, strict=True))
        errors = map(brightness_error, images, scans, self.held_out.labels)
        return {
            "setting": name,
            "MS-SSIM": mean["3D"]["ms_ssim"],
            "MS-SSIM A": mean["A"]["ms_ssim"],
            "PSNR": mean["3D"]["psnr"],
            "LPIPS-type": mean_of((map_distance(self.features, a, b) for a, b in pairs), "none"),
            **{f"FID/floor {v}": views[v]["fid"]["ratio"] for v in "ACS"},
            "seam index": mean_of(seams, "no joint"),
            "odd_even D": report["consistency"]["D"]["odd_even"],
            "brightness": float(np.mean(list(errors))),
            "Dice": report["alignment"]["mean"]["dice"],
            "seconds per volume": seconds,
        }

    def _draw(self, images: list[np.ndarray], path: Path) -> None:
        rows = []
        for index in (0, 1, 2):
            rows += label_rows(self.held_out.labels[index], self.schema)
            rows += image_rows(self.held_out.images[index], self.schema)
            rows += image_rows(images[index], self.schema)
        save_rows(rows, path)


def main() -> None:
    """Run what is missing and write the table."""
    words = arguments()
    bench, found = Bench(words), []
    names = [*SETTINGS, IMPOSED, DARK] + ([UNTUNED] if words.slices else [])
    for name in words.only or names:
        path = words.out / f"{name.replace(' ', '_').replace(',', '')}.json"
        if not path.is_file():
            generator = bench.generator
            if name == UNTUNED:
                generator = bench.untuned(words.slices, words.preset)
            sampler = replace(generator.sampler, **SETTINGS.get(name, {}))
            write_json(path, bench.row(name, replace(generator, sampler=sampler), words.out))
        found.append(json.loads(path.read_text(encoding="utf-8")))
        sys.stderr.write(f"{found[-1]}\n")
        write_table(words.out / "sampling", found, COLUMNS)


if __name__ == "__main__":
    main()
