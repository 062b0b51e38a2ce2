"""A contrastive embedding of volumes: changed views of one scan are alike, other scans are not.

It is trained on the training scans of a generator alone, within the audit: a few hundred updates of
a small network, kept in a file that is named by the hash of all that decides its weights.

N volumes, D, H, W volume size, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.losses import ContrastiveLoss
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.augment import WarpRanges
from common.engines.batches import iteration_generator
from common.errors import MedpairError
from common.io.atomic import atomic_path, to_json
from common.io.manifest import versions
from common.metrics.rigid import detail
from common.progress import Progress, silent
from segeval.augment import AugmentRanges, change_shape, change_values, draw_change

Floats = npt.NDArray[np.float64]

FEWEST = 4
"""Scans without which there is nothing to tell apart."""
_VOLUMES_AT_ONCE = 16
_GRID = 3
_SMOOTH, _GAIN = 0.15, 4.0


def _views() -> AugmentRanges:
    """Return the changes that a copy may have undergone."""
    ranges = WarpRanges(rotate=6.0, scale=0.03, shift=1.0, elastic=0.2)
    return AugmentRanges(warp=0.9, ranges=ranges, intensity=0.5, gamma=0.4)


@dataclass(frozen=True)
class Contrast:
    """How the embedding is trained.

    Args:
        updates: of the optimiser; fixed, so that equal inputs give an equal embedding.
        batch_size: scans per update, two changed views of each.
        channels: of the network's layers, each of which halves the volume.
        features: length F of the embedding.
        temperature: of the loss.
        learning_rate: of Adam.
        seed: first weights and all draws.
        augment: the changes of the views.
    """

    updates: int = 200
    batch_size: int = 10
    channels: Sequence[int] = (32, 64)
    features: int = 64
    temperature: float = 0.1
    learning_rate: float = 0.002
    seed: int = 0
    augment: AugmentRanges = field(default_factory=_views)

    def __post_init__(self) -> None:
        if self.updates < 1 or self.batch_size < 2:
            raise MedpairError(
                f"embedding: updates {self.updates}, batch_size {self.batch_size}; want >= 1 and "
                ">= 2; correct the config"
            )


class Embedding(nn.Module):
    """Map volumes (N, D, H, W) in [0, 1] to vectors (N, F) of length 1."""

    def __init__(self, channels: Sequence[int], features: int) -> None:
        super().__init__()
        widths = [1, *channels]
        self.layers = nn.Sequential(
            *(
                Convolution(3, a, b, strides=2, act="LEAKYRELU", norm=("group", {"num_groups": 4}))
                for a, b in pairwise(widths)
            )
        )
        # what all scans share is taken away, or no loss tells them apart
        self.centre = nn.BatchNorm1d(widths[-1] * _GRID**3, affine=False)
        self.head = nn.Linear(widths[-1] * _GRID**3, features)

    def forward(self, image_NDHW: Tensor) -> Tensor:
        """Return the embedding of each volume."""
        sharp = _GAIN * detail(image_NDHW, _SMOOTH)
        pooled = F.adaptive_avg_pool3d(self.layers(sharp[:, None]), _GRID).flatten(1)
        return F.normalize(self.head(self.centre(pooled)), dim=1)


def train_embedding(
    image_NDHW: Tensor, how: Contrast, cache: Path | None = None, progress: Progress | None = None
) -> Embedding:
    """Train the embedding, or read it from the cache.

    Args:
        image_NDHW: training scans in [0, 1], at least `FEWEST`; the last axis runs left-right.
        how: settings.
        cache: folder for ``embedding-<hash>.pt``; None keeps nothing.
        progress: called with ("embedding", updates done, all).

    Raises:
        MedpairError: for fewer scans.

    Source: SimCLR (Chen et al. 2020, arXiv 2002.05709), normalised temperature-scaled loss.
    """
    if len(image_NDHW) < FEWEST:
        raise MedpairError(
            f"training: {len(image_NDHW)} scans, wanted >= {FEWEST} to tell them apart; give more"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        network = Embedding(how.channels, how.features)
    path = None if cache is None else cache / f"embedding-{_identity(image_NDHW, how)}.pt"
    if path is not None and path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    _fit(network, image_NDHW, how, progress or silent)
    if path is not None:
        with atomic_path(path) as temporary:
            torch.save(network.state_dict(), temporary)
    return network.eval()


def _identity(image_NDHW: Tensor, how: Contrast) -> str:
    said = to_json([asdict(how), versions("medpair", "torch", "monai"), list(image_NDHW.shape)])
    content = image_NDHW.contiguous().numpy().tobytes()
    return hashlib.sha256(said.encode("utf-8") + content).hexdigest()[:16]


def _fit(network: Embedding, image_NDHW: Tensor, how: Contrast, progress: Progress) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=how.learning_rate)
    loss = ContrastiveLoss(temperature=how.temperature)
    for update in range(how.updates):
        generator = iteration_generator(how.seed, update)
        drawn = torch.randperm(len(image_NDHW), generator=generator)[: how.batch_size]
        views = [
            torch.stack([_view(image_NDHW[k], how.augment, generator) for k in drawn])
            for _ in range(2)
        ]
        one, other = network(torch.cat(views)).chunk(2)
        optimizer.zero_grad()
        loss(one, other).backward()
        optimizer.step()
        progress("embedding", update + 1, how.updates)
    _centre_on(network, image_NDHW)


def _centre_on(network: Embedding, image_NDHW: Tensor) -> None:
    """Let the centre be that of the scans themselves: changed views lie all on one side of them."""
    network.centre.reset_running_stats()
    network.centre.momentum = None  # the plain average of what follows
    with torch.no_grad():
        network(image_NDHW)


def _view(image_DHW: Tensor, ranges: AugmentRanges, generator: torch.Generator) -> Tensor:
    change = draw_change(ranges, generator)
    nothing = torch.zeros(image_DHW.shape, dtype=torch.uint8)  # no mask goes along
    moved, _ = change_shape(image_DHW, nothing, change, torch.zeros(1, dtype=torch.uint8), 1)
    return change_values(moved, change, generator)


@torch.no_grad()
def embedding_likeness(
    network: Embedding, query_QDHW: Tensor, bank_BDHW: Tensor, *, mirror: bool = True
) -> Floats:
    """Return the cosine (Q, B) of the embeddings of two sets of volumes.

    Args:
        network: from `train_embedding`.
        query_QDHW: volumes in [0, 1].
        bank_BDHW: volumes in [0, 1]; with ``mirror`` also reflected, and the larger cosine counts.
        mirror: reflect the bank's last axis.
    """
    if not len(query_QDHW) or not len(bank_BDHW):
        return np.zeros((len(query_QDHW), len(bank_BDHW)))
    query = _embed(network, query_QDHW)
    cosine = query @ _embed(network, bank_BDHW).T
    if mirror:
        cosine = torch.maximum(cosine, query @ _embed(network, bank_BDHW.flip(-1)).T)
    return np.asarray(cosine.double().numpy())


def _embed(network: Embedding, image_NDHW: Tensor) -> Tensor:
    return torch.cat([network(part) for part in image_NDHW.split(_VOLUMES_AT_ONCE)])
