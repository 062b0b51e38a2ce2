"""Seconds, network calls and memory of one GEM-3D volume, by preset, at the default steps.

The networks have random weights, which take as long as trained ones. The median of `--repeats`
runs after a first one.

    python benchmarks/volume_speed.py --presets tiny small --threads 2
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from typing import Any

import torch
from torch import nn

from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.pipeline import preset_geometry, read_pipeline
from common.stages import open_workflow
from gem3d.generate import InformedSlice, VolumeGenerator


class Counted(nn.Module):
    """A network that counts its calls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, *words: Any) -> Any:
        """Call the network."""
        self.calls += 1
        return self.network(*words)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["tiny", "small"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def open_generator(preset: str) -> VolumeGenerator:
    """Return a preset's generator with random weights."""
    parser = open_workflow("gem3d_volume", "inference", preset, {}).parser
    network = parser.get_parsed_content("network_def").eval()
    network.to(memory_format=torch.channels_last)
    encoding, sampler = (parser.get_parsed_content(key) for key in ("encoding", "sampler"))
    return VolumeGenerator(network, encoding, sampler, parser.get_parsed_content("chunk"))


def measure(preset: str, repeats: int) -> dict[str, Any]:
    """Time the generation of one volume."""
    geometry = preset_geometry(read_pipeline("gem3d")["presets"], preset)
    generator = open_generator(preset)
    counted = Counted(generator.network.volume)
    counted.latent_channels = generator.network.volume.latent_channels
    generator.network.volume = counted
    image, label = make_phantom(load_schema(geometry.schema), geometry.size, 0)
    middle = geometry.size[0] // 2
    slice_ = InformedSlice(torch.from_numpy(image[middle]).float() * 2 - 1, middle, "phantom")
    seconds = []
    for number in range(repeats + 1):
        counted.calls, began = 0, time.perf_counter()
        generator(torch.from_numpy(label)[None], [slice_], volumes=[number], seed=0)
        seconds.append(time.perf_counter() - began)
    return {
        "preset": preset,
        "size": list(geometry.size),
        "parameters": sum(p.numel() for p in generator.network.parameters()),
        "steps": generator.sampler.num_steps,
        "rounds": len(generator.sampler.plan(geometry.size[0], middle)),
        "network calls": counted.calls,
        "seconds": round(statistics.median(seconds[1:]), 2),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Print a line per preset."""
    words = arguments()
    torch.set_num_threads(words.threads)
    for preset in words.presets:
        print(json.dumps(measure(preset, words.repeats)))


if __name__ == "__main__":
    main()
