"""Write predicted masks beside their scans, as a pair set."""

from __future__ import annotations

from ignite.engine import Engine
from monai.utils import CommonKeys

from common.data.datasets import Pair
from common.engines.pair_writer import PairWriter


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
