"""Held-back masks with informed slices for MONAI's evaluators.

V volumes, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import Tensor

from common.data.checks import check_schema, whole_numbers
from common.data.datasets import Arrays
from common.errors import MedpairError
from gem3d.generate import InformedSlice, VolumeGenerator
from gem3d.informed import BodyRule, SliceSource, cross_slice, generated_slice
from gem3d.model import Gem3D
from gem3d.scans import open_scans
from gem3d.stage import GeneratedSlices
from gem3d.volumes import to_image

Informed = Literal["own", "cross", "generated"]
KINDS = ("own", "cross", "generated")


class InformedPairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Masks with the informed slice of each, and the real scans.

    Items: "image" the mask (1, D, H, W), the input; "label" the scan (1, D, H, W) in [0, 1];
    "slice" the informed slice (H, W) in [-1, 1]; "index", the slice it stands for; "impose",
    whether it is kept there; "id"; "number", which keys the noise.

    Args:
        data: pairs in memory.
        dataset_dir: where they come from; its training scans are the references of "cross".
        schema: name of the label schema of the weights.
        num_classes: its number of classes.
        informed: "own": the scan's own slice (paper, Table 2); "cross": another person's;
            "generated".
        index: slice for "own"; None is the middle.
        slices: generated slices.
        seed: the run's seed.
        rule: how well the body of an informed slice must fit the mask.
        impose: keep the scan's own slice as it is; the released code only conditions on it.

    Raises:
        MedpairError: for data of another schema, another kind, a slice outside a volume, or
            another slice than the own one imposed.
    """

    def __init__(
        self,
        data: Arrays,
        dataset_dir: str,
        schema: str,
        num_classes: int,
        informed: Informed = "own",
        index: int | None = None,
        slices: SliceSource | None = None,
        seed: int = 0,
        rule: BodyRule | None = None,
        impose: bool = False,
    ) -> None:
        check_schema(data.schema, schema, num_classes)
        if informed not in KINDS:
            raise MedpairError(f"informed: {informed!r}; want one of {', '.join(KINDS)}")
        if informed == "generated" and slices is None:
            raise MedpairError(
                "informed: 'generated', but the weights hold no slice generator; use 'own' or "
                "'cross'"
            )
        if impose and informed != "own":
            raise MedpairError(
                f"impose: True with informed {informed!r}; want False; only an own slice is the "
                "volume's true one"
            )
        shallow = min(len(label) for label in data.labels)
        if index is not None and not 0 <= index < shallow:
            raise MedpairError(f"slice: {index}; want 0..{shallow - 1}, a slice of every volume")
        self.data, self.informed, self.index, self.slices = data, informed, index, slices
        self.seed, self.rule, self.impose = seed, rule or BodyRule(), impose
        self.scans = open_scans(dataset_dir, schema) if informed == "cross" else None

    def __len__(self) -> int:
        return len(self.data.ids)

    def __getitem__(self, number: int) -> dict[str, Any]:
        chosen = self.choose(number)
        return {
            CommonKeys.IMAGE: torch.as_tensor(self.data.labels[number])[None],
            CommonKeys.LABEL: torch.as_tensor(self.data.images[number])[None].clamp(0, 1),
            "slice": chosen.image_HW,
            "index": chosen.index,
            "impose": chosen.impose,
            "source": chosen.source,
            "id": self.data.ids[number],
            "number": number,
        }

    def choose(self, number: int) -> InformedSlice:
        """Return the informed slice of a mask."""
        label = self.data.labels[number]
        if self.informed == "own":
            index = len(label) // 2 if self.index is None else self.index
            image = to_image(self.data.images[number])[index]
            return InformedSlice(image, index, self.data.ids[number], self.impose)
        if self.informed == "generated":
            assert self.slices is not None
            choice = generated_slice(
                label, self.slices, seed=self.seed, volume=number, rule=self.rule
            )
            return choice.informed
        assert self.scans is not None
        own = self.scans.scan(self.data.ids[number])
        references = self.scans.of("training")
        return cross_slice(
            label, own.person, references, seed=self.seed, volume=number, rule=self.rule
        ).informed


class VolumeInferer(Inferer):
    """Make images for masks with their informed slices.

    Args:
        generator: with trained networks.
        seed: the run's seed.
        source: makes informed slices where none are given, as in MONAI Label; None: they must be.
        rule: how well the body of a generated slice must fit the mask.
    """

    def __init__(
        self,
        generator: VolumeGenerator,
        seed: int = 0,
        source: GeneratedSlices | None = None,
        rule: BodyRule | None = None,
    ) -> None:
        super().__init__()
        self.generator, self.seed = generator, seed
        self.source, self.rule = source, rule or BodyRule()

    def __call__(
        self,
        inputs: Tensor,
        network: Gem3D,
        slices: Tensor | None = None,
        index: Tensor | Sequence[int] | None = None,
        number: Tensor | Sequence[int] | None = None,
        impose: Tensor | Sequence[bool] | None = None,
    ) -> Tensor:
        """Return images (V, 1, D, H, W) in [-1, 1].

        Args:
            inputs: masks (V, 1, D, H, W), whole numbers.
            network: all parts, with their weights.
            slices: informed slices (V, H, W) in [-1, 1]; None generates them.
            index: slices that they stand for; given with ``slices``.
            number: number of each volume, which keys its noise; default 0, 1, ...
            impose: whether each slice is kept as it is; default no.

        Raises:
            MedpairError: where no slices are given and the weights hold no slice generator, or
                slices without index.
        """
        label = whole_numbers(inputs[:, 0])
        numbers = list(range(len(label))) if number is None else [int(n) for n in number]
        if (slices is None) != (index is None):
            raise MedpairError("slices and index: one without the other; give both, or neither")
        if slices is None or index is None:
            informed = self._generated(label, network, numbers)
        else:
            kept = [False] * len(label) if impose is None else impose
            informed = [
                InformedSlice(image, int(z), "dataset", bool(keep))
                for image, z, keep in zip(slices, index, kept, strict=True)
            ]
        generator = replace(self.generator, network=network)
        return generator(label, informed, volumes=numbers, seed=self.seed)[:, None]

    def _generated(
        self, label_VDHW: Tensor, network: Gem3D, numbers: Sequence[int]
    ) -> list[InformedSlice]:
        if self.source is None:
            raise MedpairError(
                "slices: none given, and the weights hold no slice generator; give informed slices"
            )
        source = replace(self.source, network=network)
        return [
            generated_slice(
                label.cpu().numpy(), source, seed=self.seed, volume=n, rule=self.rule
            ).informed
            for label, n in zip(label_VDHW, numbers, strict=True)
        ]
