"""Write generated images beside the masks they were made for, as a pair set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from common.data.datasets import Arrays, Pair, PairSet
from common.data.views import triple_to_ras
from common.errors import MedpairError


class PairWriter:
    """Write each volume of an evaluator's run into a pair set.

    Args:
        data: the masks that images are generated for.
        dataset_dir: where they come from; a pair set gives the affines.
        output_dir: folder of the new pair set.
        generated_by: name of the bundle, for `dataset.json`.
    """

    def __init__(self, data: Arrays, dataset_dir: str, output_dir: str, generated_by: str) -> None:
        self.data, self.dataset_dir, self.output_dir = data, dataset_dir, Path(output_dir)
        self.generated_by = generated_by

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _open(self) -> None:
        self.source = None
        if not self.dataset_dir.startswith("phantom:"):
            self.source = PairSet.open(self.dataset_dir)
        intensity = {"method": "generated"} if self.source is None else self.source.intensity
        self.made = PairSet.create(
            self.output_dir,
            self.data.schema,
            self.data.spacing,
            None,
            intensity,
            generated_by=self.generated_by,
        )

    def _write(self, engine: Engine) -> None:
        output, names = engine.state.output, engine.state.batch["id"]
        images = output[CommonKeys.PRED].detach().cpu().numpy()
        labels = output[CommonKeys.IMAGE].detach().cpu().numpy()
        if images.shape[1] != 1:
            raise MedpairError(f"image_channels is {images.shape[1]}; want 1, as pair sets hold")
        for name, image, label in zip(names, images[:, 0], labels[:, 0], strict=True):
            unit = ((image + 1) / 2).astype(np.float32)
            pair = Pair(str(name), unit, label.astype(np.uint8), self._affine(str(name)))
            self.made.write(pair, {**self._origin(str(name)), "source": {"label": str(name)}})

    def _origin(self, name: str) -> dict[str, str]:
        """Return split and person of the mask."""
        if self.source is None:
            return {"split": "validation"}
        return {"split": self.source.record(name)["split"], "person": self.source.person(name)}

    def _affine(self, name: str) -> npt.NDArray[np.float64]:
        if self.source is not None:
            return self.source.read(name).affine
        spacing = self.data.spacing or (1.0, 1.0, 1.0)
        return np.diag([*triple_to_ras(spacing, self.data.schema.slice_axis), 1.0])
