"""Train a network that sees single slices: the features by which slices without volumes are judged.

The encoder of our segmenter sees volumes, which a baseline that makes slices does not have. This is
a 2D U-Net that segments slices of all three views of the training scans; its encoder is written as
TorchScript, for ``slice_network`` and ``--slice-network``. Its Dice on kept-back scans is printed.

    python benchmarks/slice_network.py --data PAIRSET --minutes 3 --out slices.pt
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.datasets import load_arrays
from common.data.labels import load_schema
from common.data.slice_augment import AugmentRanges
from common.engines.device import pick_device
from common.io.atomic import write_bytes, write_json
from common.metrics.extractors import IMAGENET
from sdm.slices import SliceBatches

CHANNELS = (16, 32, 64)
GIVEN = 224
"""Side of the slices that `SliceNetwork` gives."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="pair set of real scans")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="TorchScript file")
    return parser.parse_args()


class SliceEncoder(nn.Module):
    """The encoder of a U-Net, for slices as `common.metrics.extractors.SliceNetwork` gives them.

    Args:
        network: the trained U-Net of `CHANNELS`.
        side: of the squares that it sees.
    """

    def __init__(self, network: UNet, side: int) -> None:
        super().__init__()
        below = network.model[1].submodule
        self.levels = nn.Sequential(network.model[0], below[0], below[1].submodule)
        self.side, self.mean, self.std = side, IMAGENET[0][0], IMAGENET[1][0]

    def forward(self, given_N3ab: Tensor) -> Tensor:
        """Return features (N, F, h, w) of normalised slices in three equal channels."""
        grey = given_N3ab[:, :1] * self.std + self.mean
        small = F.interpolate(grey, (self.side, self.side), mode="bilinear", antialias=True)
        found: Tensor = self.levels(2 * small - 1)
        return found


def batches_of(data: str, split: str, augment: AugmentRanges | None) -> SliceBatches:
    """Return batches of slices of a split."""
    arrays = load_arrays(data, split)
    schema = load_schema(arrays.schema.name)
    return SliceBatches(arrays, schema.name, schema.num_classes, 32, 0, 8, augment)


def trained(words: argparse.Namespace, device: torch.device) -> tuple[UNet, int]:
    """Train for the minutes; return the network and the number of updates."""
    torch.manual_seed(words.seed)
    batches = batches_of(words.data, "training", AugmentRanges())
    network = UNet(2, 1, batches.num_classes, CHANNELS, (2, 2), num_res_units=1).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    generator = torch.Generator().manual_seed(words.seed)
    began, seconds, updates = time.monotonic(), 60 * words.minutes, 0
    while (spent := time.monotonic() - began) < seconds:
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - spent / seconds)
        batch = batches(generator)
        error = loss(network(batch["image"].to(device)), batch["label"].to(device))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        updates += 1
    return network.eval(), updates


@torch.no_grad()
def dice(network: UNet, data: str, device: torch.device) -> float:
    """Return the Dice over kept-back slices of all views, mean over labels."""
    batches, generator = batches_of(data, "validation", None), torch.Generator().manual_seed(0)
    both = torch.zeros(batches.num_classes)
    each = torch.zeros(batches.num_classes)
    for _ in range(20):
        batch = batches(generator)
        found = network(batch["image"].to(device)).argmax(1).cpu()
        wanted = batch["label"][:, 0].long()
        for label in range(batches.num_classes):
            both[label] += ((found == label) & (wanted == label)).sum()
            each[label] += (found == label).sum() + (wanted == label).sum()
    return float((2 * both / each)[1:].mean())


def main() -> None:
    """Train, measure and write."""
    words, device = arguments(), pick_device()
    network, updates = trained(words, device)
    scored = dice(network, words.data, device)
    side = max(load_arrays(words.data, "training").labels[0].shape)
    encoder = SliceEncoder(network.cpu(), side).eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(encoder, torch.rand(2, 3, GIVEN, GIVEN)), buffer)
    write_bytes(words.out, buffer.getvalue())
    report = {"updates": updates, "minutes": words.minutes, "kept_back_dice": scored}
    write_json(words.out.with_suffix(".json"), report)
    print(report)


if __name__ == "__main__":
    main()
