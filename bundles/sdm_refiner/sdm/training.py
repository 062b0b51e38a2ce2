"""What the training config shows at a validation.

V volumes, D, H, W volume size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events

from common.data.datasets import Arrays
from common.data.pictures import image_rows, label_rows, save_rows
from common.engines.batches import IterationBatches
from common.engines.distributed import is_first
from sdm.inferers import VolumeRefiner
from sdm.refine import Refinement
from sdm.views import ViewDenoisers


class SamplePicture:
    """Draw a picture after every validation: mask, real scan, image made from pure noise.

    Of several processes, the first draws.

    Args:
        network: the averaged network.
        how: settings of the sampling, from pure noise.
        data: real scans that were held back.
        output_dir: gets ``samples/<iteration>.png``.
        batches: the trainer's data, whose iteration names the picture.
        count: scans shown.
    """

    def __init__(
        self,
        network: ViewDenoisers,
        how: Refinement,
        data: Arrays,
        output_dir: str,
        batches: IterationBatches,
        count: int = 2,
    ) -> None:
        self.network, self.data, self.count = network, data, count
        self.folder, self.batches = Path(output_dir) / "samples", batches
        self.sampler = VolumeRefiner(how, data.schema.slice_axis, data.spacing)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self) -> None:
        if not is_first():
            return
        rows = []
        device = next(self.network.parameters()).device
        scans = zip(self.data.labels, self.data.images, strict=True)
        for label, scan in list(scans)[: self.count]:
            made = self.sampler(torch.from_numpy(label)[None].to(device), self.network.eval())
            image = ((made[0, 0] + 1) / 2).cpu().numpy()
            rows += label_rows(label, self.data.schema)
            rows += image_rows(scan, self.data.schema) + image_rows(image, self.data.schema)
        save_rows(rows, self.folder / f"{self.batches.iteration:06d}.png")
