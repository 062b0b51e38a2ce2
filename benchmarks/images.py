"""Judge generated images against real scans that were kept back.

Generated pairs whose id and mask are those of a kept-back scan are also compared with it voxel by
voxel. Feature distances are those to the training scans; the kept-back scans give their floor.

    python benchmarks/images.py --data REAL_PAIRSET --synthetic GENERATED --out report.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from common.data.datasets import PairSet
from common.io.atomic import to_json, write_json
from common.metrics.extractors import MapExtractor, SliceExtractor, open_slice_network
from common.metrics.image_report import judge_images, read_images, scans_of
from common.metrics.perceptual import open_lpips
from common.stages import open_key


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="pair set of real scans")
    parser.add_argument("--synthetic", type=Path, required=True, help="pair set to be judged")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--segmenter", default="segmentation_eval", help="bundle, or none")
    parser.add_argument("--preset", default="tiny", help="preset of the segmenter")
    parser.add_argument("--weights", help="folder of the segmenter's weights; default: shipped")
    parser.add_argument("--slice-network", help="TorchScript or ResNet-50 weights for FID")
    parser.add_argument("--lpips", help="AlexNet weights for LPIPS")
    return parser.parse_args()


def main() -> int:
    """Write the report and print its summary, one line per part."""
    words = arguments()
    real = PairSet.open(words.data)
    generated = read_images(words.synthetic)
    held_out, training = (read_images(words.data, split) for split in ("validation", "training"))
    bundle = None if words.segmenter == "none" else words.segmenter
    features, segment = (
        open_key(bundle, key, words.preset, words.weights) for key in ("features", "segment")
    )
    extractors: list[SliceExtractor] = []
    if features is not None:
        extractors.append(MapExtractor(features, f"encoder of {bundle}, {words.preset}"))
    network = open_slice_network(words.slice_network)
    if not isinstance(network, str):
        extractors.append(network)
    report: dict[str, Any] = judge_images(
        generated,
        held_out,
        real.schema,
        real=scans_of(generated, held_out),
        training=training,
        extractors=extractors,
        segment=segment,
        lpips=open_lpips(words.lpips),
    )
    write_json(words.out, report)
    for name, part in report.items():
        print(f"{name}: {to_json(summary(part))}")
    return 0


def summary(part: Any) -> Any:
    """Leave out the numbers of single pairs, views and statistics where there is a mean."""
    if not isinstance(part, dict):
        return part
    if "mean" in part:
        return part["mean"]
    return {key: summary(value) for key, value in part.items()}


if __name__ == "__main__":
    sys.exit(main())
