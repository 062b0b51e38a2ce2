"""What the training configs show at a validation: images made for held-back masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events

from common.data.datasets import Arrays
from common.data.labels import LabelSchema
from common.data.pictures import grey, image_rows, label_rows, save_rows
from common.diffusion.schedules import NoiseSchedule, Prediction
from common.engines.batches import IterationBatches
from common.metrics.fidelity import paired_fidelity
from gem3d.autoencoder import SliceAutoencoder
from gem3d.conditions import MaskEncoding
from gem3d.generate import InformedSlice, VolumeGenerator
from gem3d.model import Gem3D
from gem3d.network import VolumeDenoiser
from gem3d.sampler import LatentSampler
from gem3d.slice_generator import SliceGenerator, draw_slices
from gem3d.volumes import to_image

SCORES = ("ms_ssim", "ssim", "psnr")


class SampleVolumes:
    """Make images for held-back masks after every validation: a picture and scores.

    The middle slice of the scan is the informed slice. The mean scores in 3D go to the
    evaluator's metrics.

    Args:
        autoencoder: with its weights.
        network: the averaged volume network.
        encoding: masks on the latent grid.
        sampler: how latents are sampled.
        data: real scans that were held back.
        output_dir: gets ``samples/<iteration>.png``: rows of mask, scan and image.
        batches: the trainer's data, whose iteration names the picture.
        count: scans.
    """

    def __init__(
        self,
        autoencoder: SliceAutoencoder,
        network: VolumeDenoiser,
        encoding: MaskEncoding,
        sampler: LatentSampler,
        data: Arrays,
        output_dir: str,
        batches: IterationBatches,
        count: int = 4,
    ) -> None:
        self.generator = VolumeGenerator(Gem3D(autoencoder, network), encoding, sampler)
        self.data, self.count, self.batches = data, count, batches
        self.folder = Path(output_dir) / "samples"

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, before what logs its metrics."""
        engine.add_event_handler(Events.COMPLETED, self._sample)

    def _sample(self, engine: Engine) -> None:
        self.generator.network.eval()
        scans, labels = self.data.images[: self.count], self.data.labels[: self.count]
        middle = [len(scan) // 2 for scan in scans]
        made = [
            self.generator(
                torch.as_tensor(label)[None],
                [InformedSlice(to_image(scan)[z], z, "the scan itself")],
                volumes=[number],
                seed=0,
            )[0]
            for number, (scan, label, z) in enumerate(zip(scans, labels, middle, strict=True))
        ]
        images = [((image + 1) / 2).numpy() for image in made]
        engine.state.metrics |= mean_scores(images, scans, labels, self.data.schema)
        rows = []
        for label, scan, image in zip(labels, scans, images, strict=True):
            rows += label_rows(label, self.data.schema)
            rows += image_rows(scan, self.data.schema) + image_rows(image, self.data.schema)
        save_rows(rows, self.folder / f"{self.batches.iteration:06d}.png")


def mean_scores(
    images: list[np.ndarray], scans: list[np.ndarray], labels: list[np.ndarray], schema: LabelSchema
) -> dict[str, float]:
    """Return the mean of each score in 3D that is a number."""
    rows = [
        paired_fidelity(image, scan, label, schema.slice_axis)["3D"]
        for image, scan, label in zip(images, scans, labels, strict=True)
    ]
    values = {key: [v for row in rows if isinstance(v := row[key], float)] for key in SCORES}
    return {key: float(np.mean(found)) for key, found in values.items() if found}


class SampleSlices:
    """Draw slices at positions from the first to the last after every validation.

    Args:
        autoencoder: with its weights.
        network: the averaged slice generator.
        schedule: noise schedule of the training.
        prediction: what the network puts out.
        size: image size (H, W).
        output_dir: gets ``samples/<iteration>.png``, a row per seed.
        batches: the trainer's data, whose iteration names the picture.
        count: slices per row.
    """

    def __init__(
        self,
        autoencoder: SliceAutoencoder,
        network: SliceGenerator,
        schedule: NoiseSchedule,
        prediction: Prediction,
        size: tuple[int, int],
        output_dir: str,
        batches: IterationBatches,
        count: int = 10,
    ) -> None:
        self.autoencoder, self.network = autoencoder, network
        self.schedule, self.prediction, self.count = schedule, prediction, count
        self.size = [-(-n // autoencoder.factor) for n in size]
        self.folder, self.batches = Path(output_dir) / "samples", batches

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self) -> None:
        positions = torch.linspace(0, 1, self.count + 2)[1:-1]
        rows = []
        for seed in range(4):
            latent = draw_slices(
                self.network.eval(),
                positions,
                self.size,
                schedule=self.schedule,
                prediction=self.prediction,
                volumes=range(self.count),
                seed=seed,
            )
            with torch.no_grad():
                images = ((self.autoencoder.decode(latent)[:, 0] + 1) / 2).cpu().numpy()
            rows.append([grey(image[::-1]) for image in images])
        save_rows(rows, self.folder / f"{self.batches.iteration:06d}.png")
