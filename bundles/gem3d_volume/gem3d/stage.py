"""The volume stage of a pipeline: masks in, images out; and the source of its informed slices.

V volumes, D, H, W volume size, h, w latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.pairs import PairBatch
from common.data.provenance import GENERATED, REAL
from common.diffusion.schedules import NoiseSchedule, Prediction
from common.engines.inferers import precision_context
from common.errors import MedpairError
from gem3d.generate import VolumeGenerator
from gem3d.informed import BodyRule, Choice, cross_slice, generated_slice
from gem3d.model import Gem3D
from gem3d.scans import SourceScan, open_scans
from gem3d.slice_generator import draw_slices

NOBODY = "generated"


@dataclass(frozen=True)
class GeneratedSlices:
    """Informed slices from the position-conditioned slice generator.

    Args:
        network: all parts, with a slice generator, in eval mode.
        schedule: noise schedule of its training.
        prediction: what it puts out.
        sampler: name in `common.diffusion.samplers.SAMPLERS`.
        num_steps: denoising steps.
        precision: "fp32", "auto", "bf16" or "fp16".

    Source: GEM-3D §3.3 and algorithm 1, line 5.
    """

    network: Gem3D
    schedule: NoiseSchedule
    prediction: Prediction = "v"
    sampler: str = "dpm_solver_pp_2m"
    num_steps: int = 20
    precision: str = "auto"

    @torch.no_grad()
    def __call__(
        self,
        position: Sequence[float],
        size: tuple[int, int],
        *,
        volumes: Sequence[int],
        seed: int,
        attempt: int = 0,
    ) -> Tensor:
        """Return slices (V, H, W) in [-1, 1], on the CPU; see `gem3d.informed.SliceSource`."""
        if self.network.slice_generator is None:
            raise MedpairError(
                "informed: 'generated', but the weights hold no slice generator; use 'cross', or "
                "train with train_slice_generator.yaml"
            )
        autoencoder = self.network.autoencoder
        latent = draw_slices(
            self.network.slice_generator,
            torch.tensor(position),
            [-(-n // autoencoder.factor) for n in size],
            schedule=self.schedule,
            prediction=self.prediction,
            volumes=volumes,
            seed=seed,
            sampler=self.sampler,
            num_steps=self.num_steps,
            attempt=attempt,
            precision=self.precision,
        )
        with precision_context(latent.device, "fp32"):
            image = autoencoder.decode(latent)[:, 0, : size[0], : size[1]]
        return image.cpu()


def slice_source(
    network: Gem3D, schedule: NoiseSchedule, prediction: Prediction, num_steps: int
) -> GeneratedSlices | None:
    """Return the source of generated slices, None where the weights hold no slice generator."""
    if network.slice_generator is None:
        return None
    return GeneratedSlices(network, schedule, prediction, num_steps=num_steps)


class VolumeStage:
    """Give every mask of a batch an image that starts from an informed slice.

    Args:
        generator: makes images for masks.
        schema: name of the label schema of the weights.
        slices: generated informed slices; None where there are none.
        reference_dir: pair set whose training scans give the informed slices; None takes
            generated ones.
        rule: how well the body of an informed slice must fit the mask.

    Raises:
        MedpairError: if there is neither a slice generator nor a reference.

    Source: GEM-3D, algorithm 1.
    """

    def __init__(
        self,
        generator: VolumeGenerator,
        schema: str,
        slices: GeneratedSlices | None = None,
        reference_dir: str | Path | None = None,
        rule: BodyRule | None = None,
    ) -> None:
        if slices is None and reference_dir is None:
            raise MedpairError(
                "reference_dir: null, but the weights hold no slice generator; give a pair set of "
                "scans as reference_dir"
            )
        self.generator, self.schema, self.slices = generator, schema, slices
        self.references: tuple[SourceScan, ...] = ()
        if reference_dir is not None:
            self.references = open_scans(reference_dir, schema).of("training")
            if not self.references:
                raise MedpairError(
                    f"reference_dir: {reference_dir} has no training scan; want at least one; give "
                    "another pair set"
                )
        self.rule = rule or BodyRule()

    @property
    def identity(self) -> dict[str, str]:
        """What the slices are that images start from, for the manifest."""
        return {"informed": REAL if self.references else GENERATED}

    def working_bytes(self, volumes: int, size: tuple[int, int, int]) -> int:
        """Return the bytes that a batch holds at its peak; see `VolumeGenerator`."""
        return self.generator.working_bytes(volumes, size)

    def __call__(self, batch: PairBatch) -> PairBatch:
        """Return the batch with its images (V, D, H, W) in [-1, 1] and their start slices.

        Raises:
            MedpairError: where the masks are missing or do not fit the weights.
        """
        if batch.label_VDHW is None:
            raise MedpairError("volume stage: no masks; put a mask stage before it or give --data")
        batch.check_schema("volume", self.schema)
        labels = batch.label_VDHW.numpy()
        chosen = [
            self._choose(label, batch.seed, volume)
            for label, volume in zip(labels, batch.volumes, strict=True)
        ]
        informed = [choice.informed for choice in chosen]
        image = self.generator(batch.label_VDHW, informed, volumes=batch.volumes, seed=batch.seed)
        starts = tuple(slice_.index for slice_ in informed)
        joints = tuple(self.generator.joints(batch.size[0], start) for start in starts)
        return replace(batch, image_VDHW=image, start=starts, joints=joints)

    def _choose(self, label: np.ndarray, seed: int, volume: int) -> Choice:
        if self.references:
            own = {s.person for s in self.references if np.array_equal(s.label, label)}
            person = own.pop() if own else NOBODY  # batches carry no names, but masks tell
            return cross_slice(
                label, person, self.references, seed=seed, volume=volume, rule=self.rule
            )
        assert self.slices is not None
        return generated_slice(label, self.slices, seed=seed, volume=volume, rule=self.rule)
