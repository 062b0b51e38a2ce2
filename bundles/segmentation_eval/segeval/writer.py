"""Write predicted masks: beside their scans as a pair set, or as one file on a scan's own grid."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from common.data.datasets import Arrays, Pair
from common.engines.pair_writer import PairWriter
from common.io.nifti import write_volume
from segeval.scan_file import ScanArrays


class PredictionWriter(PairWriter):
    """Write each predicted mask of an evaluator's run into a pair set, with its scan and affine.

    Args:
        data: the scans that masks are predicted for.
        dataset_dir: where they come from; a pair set gives the affines.
        output_dir: folder of the new pair set.
        generated_by: name of the bundle, for `dataset.json`.
    """

    def _write(self, engine: Engine) -> None:
        output, names = engine.state.output, engine.state.batch["id"]
        images = output[CommonKeys.IMAGE].detach().cpu()[:, 0].numpy()
        masks = output[CommonKeys.PRED].detach().cpu().argmax(dim=1).byte().numpy()
        for name, image, mask in zip(names, images, masks, strict=True):
            pair = Pair(str(name), image, mask, self._affine(str(name)))
            self.made.write(pair, {**self._origin(str(name)), "source": {"image": str(name)}})


class ScanWriter:
    """Write the predicted mask of one scan file as ``<name>_mask.nii.gz``, on the file's grid.

    Args:
        data: the scan.
        output_dir: folder of the mask.
    """

    def __init__(self, data: ScanArrays, output_dir: str) -> None:
        self.data, self.output_dir = data, Path(output_dir)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        (logits,) = engine.state.output[CommonKeys.PRED].detach().cpu()
        place = self.data.place
        assert place is not None
        mask = place.mask_back(logits.argmax(dim=0).byte().numpy())
        write_volume(self.output_dir / f"{self.data.ids[0]}_mask.nii.gz", mask, place.affine)


def prediction_writer(
    data: Arrays, dataset_dir: str, output_dir: str, generated_by: str
) -> PredictionWriter | ScanWriter:
    """Return the writer that fits the data; arguments as for `PredictionWriter`."""
    if isinstance(data, ScanArrays):
        return ScanWriter(data, output_dir)
    return PredictionWriter(data, dataset_dir, output_dir, generated_by)
