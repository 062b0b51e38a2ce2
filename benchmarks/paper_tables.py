r"""MedGen3D's Table 1 and GEM-3D's Tables 1 and 2, each by one command from generated pair sets.

    python benchmarks/paper_tables.py medgen3d-1 --real PAIRSET --ddpm samples.json \
        --set "3D-alpha-WGAN=DIR" --set Vid2Vid=DIR --set MedGen3D=DIR --out DIR
    python benchmarks/paper_tables.py gem3d-1 --real PAIRSET --set MAV=DIR --set IG=DIR \
        --set IC=DIR --out DIR
    python benchmarks/paper_tables.py gem3d-2 --real PAIRSET --set "Pix2Pix 3D=DIR" \
        --set "3D LDM=DIR" --set Make-A-Volume=DIR --set GEM-3D=DIR --out DIR

As in the papers, distances are those to the training scans, also for images that were made for
masks of training persons; the kept-back scans give the floor. Features: the encoder of our
segmenter, and the networks that ``--backbones`` (YAML, as for `medpair judge`) names. The papers'
LPIPS stands beside a distance of the same form on our encoder, which needs no weights of others.
The DDPM makes slices, which a network that sees volumes cannot judge: ``--slice-network`` (of
`slice_network.py`, or another) judges all; without it the row is what the DDPM's own config found.
DIR gets ``<table>.md`` and, per set, a report; a set that has not changed is not judged again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import write_table

from common.data.datasets import PairSet
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.manifest import sha256
from common.judging import read_backbones
from common.metrics.backbones import open_backbones
from common.metrics.diversity import Pairs, diversity, pairwise_lpips, pairwise_ms_ssim
from common.metrics.extractors import (
    Features,
    MapExtractor,
    SliceExtractor,
    SliceNetwork,
    open_slice_network,
)
from common.metrics.features import slice_features
from common.metrics.image_report import ImageSet, judge_images, read_images, scans_of
from common.metrics.perceptual import map_distance, open_lpips
from common.metrics.set_distances import frechet_distance
from common.metrics.values import Value, mean_of, not_computed
from common.stages import open_key

BUNDLE = "segmentation_eval"
VIEWS = {"A": "axial", "C": "coronal", "S": "sagittal"}
SLICES_BY = "slice network"
BODY, LEAST = 0.1, 0.01
"""Intensity of a body; share of a slice that it must fill."""
SLICES = not_computed("it makes slices, no volumes")
WHOLE = {"fid": dict.fromkeys(("distance", "ratio"), not_computed("it sees volumes, no slices"))}
Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--real", required=True, help="pair set: training and kept-back scans")
    parser.add_argument("--set", action="append", default=[], help="NAME=generated pair set")
    parser.add_argument("--ddpm", type=Path, help="samples.json of sdm_refiner's sample_ddpm.yaml")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slice-network", help="TorchScript or weights of a ResNet-50")
    parser.add_argument("--backbones", help="YAML file of weights, as for medpair judge")
    parser.add_argument("--preset", default="tiny", help="of the segmenter")
    parser.add_argument("--weights", help="folder of the segmenter's weights; default: shipped")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of volumes for diversity")
    return parser.parse_args()


@dataclass(frozen=True)
class Bench:
    """The real scans and everything that looks at images."""

    data: str
    pairs: int
    held_out: ImageSet
    training: ImageSet
    features: Features
    extractors: Sequence[SliceExtractor]
    lpips: Any
    of_slices: SliceNetwork | None

    @property
    def schema(self) -> Any:
        """The label schema of all sets."""
        return PairSet.open(self.data).schema


def open_bench(words: argparse.Namespace) -> Bench:
    """Open the real scans and the networks."""
    given = read_backbones(words.backbones) if words.backbones else {}
    features = open_key(BUNDLE, "features", words.preset, words.weights)
    assert features is not None
    lpips = open_lpips((given.pop("lpips", None) or {}).get("weights"))
    others = open_backbones(given).values()
    opened = [extractor for extractor in others if not isinstance(extractor, str)]
    seen = (
        None if words.slice_network is None else open_slice_network(words.slice_network, SLICES_BY)
    )
    assert not isinstance(seen, str)
    all_of = [MapExtractor(features, "encoder"), *([seen] if seen else []), *opened]
    held_out, training = (read_images(words.real, s) for s in ("validation", "training"))
    return Bench(words.real, words.pairs, held_out, training, features, all_of, lpips, seen)


def distances(bench: Bench, made: ImageSet) -> dict[str, Any]:
    """Return `feature_distance` to the training scans by extractor."""
    made = replace(made, persons=list(made.ids))  # as the papers: whoever the masks are of
    report: Any = judge_images(
        made, bench.held_out, bench.schema, training=bench.training, extractors=bench.extractors
    )
    return dict(report["features"])


def diversities(bench: Bench, made: ImageSet) -> dict[str, Any]:
    """Return how alike the images of a set are to each other, and the real scans'."""
    real = ImageSet(
        [*bench.training.ids, *bench.held_out.ids],
        [*bench.training.images, *bench.held_out.images],
        [*bench.training.labels, *bench.held_out.labels],
        [*bench.training.persons, *bench.held_out.persons],
    )
    own = Remembered(bench.features)

    def of(measure: Callable[[ImageSet, Pairs], list[Value]]) -> dict[str, Value]:
        return diversity(
            lambda is_real, chosen: measure(real if is_real else made, chosen),
            made.persons,
            real.persons,
            pairs=bench.pairs,
        )

    def lpips(images: ImageSet, chosen: Pairs) -> list[Value]:
        axis = bench.schema.slice_axis
        return pairwise_lpips(bench.lpips, images.images, images.labels, chosen, axis)

    return {
        "LPIPS-type": of(lambda s, c: [map_distance(own, s.images[i], s.images[j]) for i, j in c]),
        "MS-SSIM": of(lambda s, c: pairwise_ms_ssim(s.images, c)),
        "LPIPS": bench.lpips if isinstance(bench.lpips, str) else of(lpips),
    }


class Remembered:
    """Feature maps that are made once per image, as an image is in many pairs."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.maps: dict[int, torch.Tensor] = {}

    def __call__(self, image_VDHW: torch.Tensor) -> torch.Tensor:
        """Return the feature maps of images."""
        return torch.cat([self._one(image) for image in image_VDHW])

    def _one(self, image: torch.Tensor) -> torch.Tensor:
        key = hash(image.numpy().tobytes())
        if key not in self.maps:
            self.maps[key] = self.features(image[None])
        return self.maps[key]


def paired(bench: Bench, made: ImageSet) -> dict[str, Any]:
    """Return MS-SSIM, PSNR and LPIPS to the kept-back scans of the masks."""
    scans = scans_of(made, bench.held_out)
    if scans is None:
        raise MedpairError(
            "--set: masks that are not those of kept-back scans, wanted images made for them; make "
            "them with split validation"
        )
    report: Any = judge_images(
        made, bench.held_out, bench.schema, real=scans, lpips=bench.lpips, extractors=()
    )
    pairs = zip(made.images, scans, strict=True)
    own = [map_distance(bench.features, image, scan) for image, scan in pairs]
    mean = report["fidelity"]["mean"]
    return {"fidelity": mean, "lpips": report["lpips"], "LPIPS-type": float(np.mean(own))}


def medgen3d(bench: Bench, made: ImageSet) -> dict[str, Any]:
    """Return the report of a set for MedGen3D's Table 1."""
    return {"features": distances(bench, made), "diversity": diversities(bench, made)}


def medgen3d_rows(name: str, report: Mapping[str, Any]) -> list[Row]:
    """Return a row per extractor: FID of three views and their mean with its floor; diversity."""
    found = report["diversity"]
    rows = _fid_rows(name, report)
    for row in rows:
        for key in ("LPIPS", "LPIPS-type", "MS-SSIM"):
            numbers = found[key] if isinstance(found[key], dict) else {}
            row[key] = numbers.get("pairwise", found[key])
            row[f"real {key}"] = numbers.get("real", found[key])
    return rows


def _fid_rows(name: str, report: Mapping[str, Any]) -> list[Row]:
    rows = []
    for extractor, found in report["features"].items():
        views = {view: found["views"].get(view, WHOLE)["fid"] for view in "ACS"}
        row: Row = {"generator": name, "features": extractor, "volumes": found["n_generated"]}
        row |= {f"FID {v}": fid["distance"] for v, fid in views.items()}
        row |= {f"FID/floor {v}": fid["ratio"] for v, fid in views.items()}
        fid = found["mean"]["fid"]
        rows.append(row | {"FID": fid["distance"], "floor": fid["floor"], "ratio": fid["ratio"]})
    return rows


def gem3d_1(bench: Bench, made: ImageSet) -> dict[str, Any]:
    """Return the report of a set for GEM-3D's Table 1."""
    return {"features": distances(bench, made)}


def gem3d_2(bench: Bench, made: ImageSet) -> dict[str, Any]:
    """Return the report of a set for GEM-3D's Table 2."""
    return {"n": len(made.ids), "paired": paired(bench, made)}


def gem3d_2_rows(name: str, report: Mapping[str, Any]) -> list[Row]:
    """Return the row of axial slices, as the paper's, and of whole volumes."""
    mean, lpips = report["paired"]["fidelity"], report["paired"]["lpips"]
    return [
        {
            "generator": name,
            "volumes": report["n"],
            "MS-SSIM A": mean["A"]["ms_ssim"],
            "LPIPS A": lpips["A"],
            "MS-SSIM 3D": mean["3D"]["ms_ssim"],
            "PSNR 3D": mean["3D"]["psnr"],
            "LPIPS-type 3D": report["paired"]["LPIPS-type"],
        }
    ]


@dataclass(frozen=True)
class Table:
    """How a table's sets are judged, and what of it the rows say."""

    judge: Callable[[Bench, ImageSet], dict[str, Any]]
    rows: Callable[[str, Mapping[str, Any]], list[Row]]


TABLES = {
    "medgen3d-1": Table(medgen3d, medgen3d_rows),
    "gem3d-1": Table(gem3d_1, _fid_rows),
    "gem3d-2": Table(gem3d_2, gem3d_2_rows),
}


def slice_distances(bench: Bench, slices: Mapping[str, Any]) -> dict[str, dict[str, Value]]:
    """Return the distance of slices to the training scans per view, its floor and their ratio.

    As for volumes, slices without a body do not count.

    Args:
        bench: the real scans and the network.
        slices: (N, a, b) of each view, normalised intensities.
    """
    network, axis = bench.of_slices, bench.schema.slice_axis
    assert network is not None
    training, kept = (
        slice_features(network, s.images, s.labels, axis).views
        for s in (bench.training, bench.held_out)
    )
    found: dict[str, dict[str, Value]] = {}
    for view, drawn in slices.items():
        shown = drawn[(drawn > BODY).mean(axis=(1, 2)) > LEAST]
        real = np.concatenate(training[view])
        distance, floor = of_equal_numbers(
            network.of_slices(shown), np.concatenate(kept[view]), real
        )
        found[view] = {"distance": distance, "floor": floor, "ratio": distance / floor}
    return found


def of_equal_numbers(a_NF: Any, b_MF: Any, real: Any, repeats: int = 20) -> tuple[float, float]:
    """Return the distances of two sets to real ones, by random parts of equal number: the mean.

    A Frechet distance grows where there are fewer samples.
    """
    number, rng = min(len(a_NF), len(b_MF)), np.random.default_rng(0)
    drawn = [
        [frechet_distance(rng.permutation(rows)[:number], real) for rows in (a_NF, b_MF)]
        for _ in range(repeats)
    ]
    a, b = np.mean(drawn, axis=0)
    return float(a), float(b)


def ddpm_row(bench: Bench, path: Path, columns: Sequence[str]) -> Row:
    """Return the row of the 2D baseline, from the slices and the report of its own config."""
    report = json.loads(path.read_text(encoding="utf-8"))
    row: Row = dict.fromkeys(columns, SLICES)
    if bench.of_slices is None:
        found = {v: report["frechet_distance"][VIEWS[v]] for v in "ACS"}
        row |= {"features": report["extractor"]}
    else:
        with np.load(path.with_name("samples.npz")) as samples:
            found = slice_distances(bench, {v: samples[VIEWS[v]][:, 0] for v in "ACS"})
        row |= {"features": bench.of_slices.name}
    row |= {"generator": "DDPM (2D, per view)"}
    row |= {f"FID {v}": fid["distance"] for v, fid in found.items()}
    row |= {f"FID/floor {v}": fid["ratio"] for v, fid in found.items()}
    reason = str(found["A"]["distance"]).removeprefix("not computed: ")
    for column, key in (("FID", "distance"), ("floor", "floor"), ("ratio", "ratio")):
        row[column] = mean_of([fid[key] for fid in found.values()], reason)
    return row


def report_of(words: argparse.Namespace, bench: Bench, name: str, folder: str) -> Any:
    """Return the report of a set, judged anew where it, the real set or the options changed."""
    path = words.out / words.table / f"{name.replace(' ', '')}.json"
    inputs = {
        "sets": [sha256(Path(f) / "manifest.jsonl") for f in (words.real, folder)],
        "backbones": [extractor.name for extractor in bench.extractors],
        "options": [words.preset, words.weights, words.backbones, words.pairs],
        "slice_network": words.slice_network and sha256(words.slice_network),
    }
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["inputs"] == inputs:
            return known
    found = TABLES[words.table].judge(bench, read_images(folder))
    write_json(path, {"inputs": inputs, **found})
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Judge the sets and write the table after each."""
    words = arguments()
    named = [text.partition("=") for text in words.set]
    if not named or not all(name and folder for name, _, folder in named):
        raise MedpairError("--set: wanted NAME=PAIRSET, at least once")
    bench = open_bench(words)
    rows: list[Row] = []
    for name, _, folder in named:
        rows += TABLES[words.table].rows(name, report_of(words, bench, name, folder))
        columns = list(rows[0])
        ddpm = [ddpm_row(bench, words.ddpm, columns)] if words.ddpm else []
        write_table(words.out / words.table, [*ddpm, *rows], columns)


if __name__ == "__main__":
    try:
        main()
    except MedpairError as error:
        sys.exit(f"error: {error}")
