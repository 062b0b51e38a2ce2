"""The refining stage of a pipeline: images in, better images out."""

from __future__ import annotations

from dataclasses import replace

from common.data.pairs import PairBatch
from common.errors import MedpairError
from sdm.inferers import VolumeRefiner, check_start
from sdm.refine import Refinement
from sdm.views import ViewDenoisers


class RefineStage:
    """Refine the images of a batch, or, with ``t_start`` None, make them.

    Args:
        network: denoisers with their weights.
        schema: name of the label schema they were trained for.
        how: settings of the refinement.
    """

    def __init__(self, network: ViewDenoisers, schema: str, how: Refinement) -> None:
        if network.image_channels != 1:
            raise MedpairError(
                f"image_channels is {network.image_channels}; want 1 in a pipeline, whose volumes "
                "have one channel; repair network_def"
            )
        check_start(how)
        self.network, self.schema, self.how = network, schema, how

    def __call__(self, batch: PairBatch) -> PairBatch:
        """Return the batch with its images (V, D, H, W) in [-1, 1] refined.

        Raises:
            MedpairError: where masks or images are missing or do not fit the weights.
        """
        batch.check_schema("refine", self.schema)
        if batch.label_VDHW is None or (batch.image_VDHW is None and self.how.t_start is not None):
            missing = "masks" if batch.label_VDHW is None else "images"
            raise MedpairError(
                f"refine stage: no {missing}; put the stage that makes them before it in the "
                "pipeline"
            )
        device = next(self.network.parameters()).device
        refiner = VolumeRefiner(self.how, batch.schema.slice_axis, batch.spacing, batch.seed)
        before = None
        if self.how.t_start is not None and batch.image_VDHW is not None:
            before = batch.image_VDHW[:, None].to(device)
        label = batch.label_VDHW.to(device)
        image = refiner(label, self.network.eval(), before, batch.volumes)
        return replace(batch, image_VDHW=image[:, 0].cpu())
