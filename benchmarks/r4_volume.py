"""R4: GEM-3D volumes in lock-step against the same network in a plain loop.

Same weights (random where none ship), noise, windows and steps. The plain loop makes one window
after the other at batch one, as the released code does.

    python benchmarks/r4_volume.py --size 24x40x40 --volumes 2 --out r4.json
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from race import arguments, check, finish, limits, open_parser, race
from torch import Tensor

from common.data.labels import load_schema
from common.data.phantom import make_phantom
from gem3d.generate import InformedSlice, VolumeGenerator
from gem3d.sampler import LatentSampler

TOLERANCE = {"fp32": 1e-2, "bf16": 0.3}  # of images in [-1, 1]


class SerialSampler(LatentSampler):
    """A sampler whose rounds run window by window."""

    def _sample(self, network: Any, conditions: Any, noise: Any) -> Tensor:
        rows = []
        for row in range(len(conditions.mask_SMhw)):
            one = type(conditions)(*(part[row : row + 1] for part in conditions))
            taken = _Row(noise, row)
            rows.append(super()._sample(network, one, taken))
        return torch.cat(rows)


class _Row:
    """The noise of one row."""

    def __init__(self, noise: Any, row: int) -> None:
        self.noise, self.row = noise, row

    def __call__(self, step: int, purpose: str = "step") -> Tensor:
        return self.noise(step, purpose)[self.row : self.row + 1]


class Volumes:
    """Phantom masks and their informed slices."""

    def __init__(self, words: Any) -> None:
        settings = {"num_steps": words.steps, "precision": words.precision}
        parser = open_parser("gem3d_volume", words.preset, **settings)
        content = {k: parser.get_parsed_content(k) for k in ("network", "encoding", "sampler")}
        network = content["network"].to(words.device).eval()
        sampler = replace(content["sampler"], sampler="ddim", guidance_mask=words.guidance)
        self.generator = VolumeGenerator(
            network, content["encoding"], sampler, parser.get_parsed_content("chunk")
        )
        fields = {k: v for k, v in vars(sampler).items() if not k.startswith("_")}
        self.plain = replace(self.generator, sampler=SerialSampler(**fields))
        size = tuple(int(word) for word in words.size.split("x"))
        schema = load_schema(parser.get_parsed_content("schema"))
        pairs = [make_phantom(schema, size, v) for v in range(words.volumes)]
        self.label = torch.stack([torch.from_numpy(label) for _, label in pairs])
        middle = size[0] // 2
        self.informed = [
            InformedSlice(torch.from_numpy(image[middle]).float() * 2 - 1, middle, "phantom")
            for image, _ in pairs
        ]

    def make(self, generator: VolumeGenerator, one_by_one: bool = False) -> Tensor:
        """Return images (V, D, H, W)."""
        if not one_by_one:
            numbers = range(len(self.label))
            return generator(self.label, self.informed, volumes=numbers, seed=0)
        return torch.cat(
            [
                generator(self.label[v : v + 1], self.informed[v : v + 1], volumes=[v], seed=0)
                for v in range(len(self.label))
            ]
        )


def main() -> None:
    """Check and race."""
    parser = arguments(__doc__.splitlines()[0], size="24x40x40", volumes=2, steps=10, guidance=1.0)
    words = parser.parse_args()
    volumes = Volumes(words)
    wanted = volumes.make(volumes.generator)
    plain = volumes.make(volumes.plain, one_by_one=True)
    difference = check("plain loop", plain, wanted, TOLERANCE[words.precision])
    runs = {
        "ours": lambda: volumes.make(volumes.generator),
        "one volume at a time": lambda: volumes.make(volumes.generator, one_by_one=True),
        "plain loop": lambda: volumes.make(volumes.plain, one_by_one=True),
    }
    report = {
        "benchmark": "R4 volume",
        "largest_difference": difference,
        "contestants": race(runs, words.repeats, words.device),
        "limits": limits(words.device, words.precision),
    }
    finish(words, report)


if __name__ == "__main__":
    main()
