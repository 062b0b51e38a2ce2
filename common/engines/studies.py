"""MONAI transforms between a study, as viewers send it, and the network's grid.

MONAI Label runs them as ``preprocessing`` and ``postprocessing``. MONAI's own Spacingd is not used:
in MONAI 1.6 it fails on the keys that MONAI Label adds, and prepared scans were resampled by
`common.data.geometry`.

C channels, X, Y, Z size in the study's own axis order, D, H, W size on the network's grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import CommonKeys
from torch import Tensor

from common.data.studies import NetworkGrid, Study
from common.errors import MedpairError

Data = Mapping[Hashable, Any]
STUDY, RESULT, META = "study", "result", "image_meta_dict"
READINGS = ("scan", "mask", "refine", "space")
KINDS = ("logits", "labels", "image")


class StudyToGrid(Transform):
    """Put the study under "image" onto the network's grid.

    Items: "image" becomes float32 (C, D, H, W): a scan in [0, 1]; a mask in schema ids; a scan in
    [-1, 1] and, where the study has a second channel, its mask ("refine"); or zeros ("space").
    "study" tells the way back, "result" what a user should know.

    Args:
        reads: what the study is taken for: "scan", "mask", "refine" or "space", its grid alone.
        schema: name of the label schema of the weights.
        spacing: voxel size (D, H, W) in mm that they were trained at.
        size: voxels (D, H, W) around the middle of the body; None takes as many as it needs.
        schema_file: the schema's YAML file; None for one that ships.
        source: whose ids masks hold, see `NetworkGrid`.

    Raises:
        MedpairError: for an unknown reading, schema or source.
    """

    def __init__(
        self,
        reads: str,
        schema: str,
        spacing: Sequence[float],
        size: Sequence[int] | None = None,
        schema_file: str | None = None,
        source: str | None = None,
    ) -> None:
        if reads not in READINGS:
            raise MedpairError(f"reads: {reads!r}, wanted one of {', '.join(READINGS)}")
        self.reads, self.grid = reads, NetworkGrid(schema_file or schema, spacing, size, source)

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Return the item with its study on the network's grid.

        Raises:
            MedpairError: for a study without contrast, labels or the right number of channels.
        """
        array, affine = _volume(data[CommonKeys.IMAGE])
        most = 2 if self.reads == "refine" else 1
        if array.ndim != 4 or not 1 <= len(array) <= most:
            wanted = "1 or 2 channels" if most > 1 else "1 channel"
            raise MedpairError(
                f"study: shape {array.shape}, wanted a volume of {wanted}; choose another study"
            )
        study = self._study(array, affine)
        notes: dict[str, Any] = {"taken_as": self.reads}
        if study.source is not None:
            notes["ids_of"] = study.source
        if study.outside:
            notes["voxels_outside_the_grid"] = study.outside
        if self.reads == "refine":
            notes["mask"] = "none given: null mask" if study.label_DHW is None else "channel 2"
        return {
            **data,
            CommonKeys.IMAGE: self._tensor(study),
            STUDY: study,
            RESULT: {**data.get(RESULT, {}), **notes},
            # what MONAI Label puts results back by: they come on this grid already
            META: {"spatial_shape": array.shape[1:], "original_affine": affine, "affine": affine},
        }

    def _study(self, array: np.ndarray, affine: np.ndarray) -> Study:
        first = array[0]
        if self.reads == "mask":
            return self.grid.mask(first, affine)
        if self.reads == "space":
            return self.grid.space(first, affine)
        if len(array) == 2:
            return self.grid.pair(first, array[1], affine)
        return self.grid.scan(first, affine)

    def _tensor(self, study: Study) -> Tensor:
        if self.reads == "space":
            return torch.zeros(1, *study.size)
        if self.reads == "mask":
            assert study.label_DHW is not None
            return torch.from_numpy(study.label_DHW).float()[None]
        assert study.image_DHW is not None
        image = torch.from_numpy(study.image_DHW).clamp(0, 1)
        if self.reads == "scan":
            return image[None]
        channels = [2 * image - 1]
        if study.label_DHW is not None:
            channels.append(torch.from_numpy(study.label_DHW).float())
        return torch.stack(channels)


class GridToStudy(Transform):
    """Put what a network made, under "pred", back onto the study's own grid.

    Items: "pred" becomes (1, X, Y, Z): schema ids, uint8, or an image on the scale of the study,
    float32.

    Args:
        kind: what the network made: "logits" (K, D, H, W), "labels" (1, D, H, W) or "image"
            (1, D, H, W) in [-1, 1].

    Raises:
        MedpairError: for another kind.
    """

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise MedpairError(f"kind: {kind!r}, wanted one of {', '.join(KINDS)}")
        self.kind = kind

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Return the item with its prediction on the study's grid."""
        study: Study = data[STUDY]
        made = data[CommonKeys.PRED]
        made = (made.as_tensor() if isinstance(made, MetaTensor) else made).detach().cpu()
        if self.kind == "image":
            unit = ((made[0].float().numpy() + 1) / 2).clip(0, 1)
            back: np.ndarray = study.place.image_back(unit)
        else:
            ids = made.argmax(dim=0) if self.kind == "logits" else made[0]
            back = study.place.mask_back(ids.byte().numpy())
        return {**data, CommonKeys.PRED: torch.from_numpy(back)[None]}


def _volume(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a loaded study (C, X, Y, Z) and its affine."""
    if not isinstance(image, MetaTensor):
        raise MedpairError(f"study: {type(image).__name__}, wanted a loaded volume; name an image")
    affine = image.meta.get("original_affine")
    found = image.affine if affine is None else affine
    array = image.as_tensor().cpu().numpy()
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise MedpairError(f"study: {bad} voxels are NaN or infinite, wanted none; replace them")
    return array, np.asarray(found, dtype=np.float64)
