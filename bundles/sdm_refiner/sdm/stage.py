"""The refining stage of a pipeline: images in, better images out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from common.data.pairs import PairBatch
from common.engines.inferers import precision_context
from common.errors import MedpairError
from sdm.inferers import VolumeRefiner, check_start
from sdm.modulation import Budget, SliceCost
from sdm.refine import Refinement
from sdm.views import VIEWS, ViewDenoisers


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

    def working_bytes(self, volumes: int, size: tuple[int, int, int]) -> int:
        """Return the bytes that a batch of volumes holds at its peak, beside the weights.

        Args:
            volumes: V.
            size: (D, H, W) of the volumes.
        """
        images = 2 * volumes * math.prod(size) * torch.float32.itemsize
        return max(self._view_bytes(volumes, size, axis) for axis in range(3)) + images

    def _view_bytes(self, volumes: int, size: tuple[int, int, int], axis: int) -> int:
        """Return what the slices normal to an axis need, as far as the budget lets them."""
        how, net = self.how, self.network
        height, width = (n + -n % net.stride for i, n in enumerate(size) if i != axis)
        device = next(net.parameters()).device
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            mask = torch.zeros(1, net.mask_channels, height, width, device=device)
            with precision_context(device, how.precision):
                maps = net.modulations(mask, VIEWS[0])
        cost = SliceCost.of(maps, 1 if how.guidance_scale == 1 else 2)
        budget = Budget.plan(how.memory_budget_gb, cost, how.slices_per_batch)
        slices = min(budget.slices, volumes * size[axis])
        kept = 0 if how.mode.startswith("mean") else volumes * sum(size) * cost.kept
        return slices * (cost.kept + cost.working) + min(kept, budget.cache_bytes)

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
