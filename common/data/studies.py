"""A viewer's or user's volume: onto a network's grid, and what the network makes back to its own.

X, Y, Z size in the file's own axis order; D, H, W size on the network's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.datasets import Size
from common.data.geometry import Grid, from_ras, resample_image, resample_labels, to_ras
from common.data.intensity import denormalise, intensity_of
from common.data.labels import IDENTITY, LabelSchema, load_schema, unique_ids
from common.data.placing import Raw, Settings, lost_voxels, place, place_labels, plan
from common.data.sources import integer_ids
from common.data.support import add_container
from common.data.views import from_dhw, triple_to_dhw
from common.errors import MedpairError

Array = npt.NDArray[Any]
Image = npt.NDArray[np.float32]
LabelMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """Where the voxels of a study lie on a network's grid, and what its intensities mean there.

    Attributes:
        schema: meaning of the labels.
        grid: from the study's voxels, in RAS order, to the network's.
        affine: of the study, (4, 4).
        lower: its raw value that is 0 on the network's scale.
        upper: the one that is 1.
    """

    schema: LabelSchema
    grid: Grid
    affine: npt.NDArray[np.float64]
    lower: float = 0.0
    upper: float = 1.0

    def mask_back(self, mask_DHW: LabelMap) -> LabelMap:
        """Return a mask (D, H, W) on the study's own grid, uint8 (X, Y, Z)."""
        mask = from_dhw(mask_DHW, self.schema.slice_axis)
        resampled = resample_labels(mask, self.grid.inverse(), self.schema.num_classes)
        return np.ascontiguousarray(from_ras(resampled, self.affine).astype(np.uint8))

    def image_back(self, image_DHW: Image) -> Image:
        """Return an image (D, H, W) in [0, 1] on the study's grid and scale, float32 (X, Y, Z).

        Outside of the network's grid it is ``lower``.
        """
        image = from_dhw(np.asarray(image_DHW, dtype=np.float32), self.schema.slice_axis)
        resampled = from_ras(resample_image(image, self.grid.inverse()), self.affine)
        return np.ascontiguousarray(denormalise(resampled, self.lower, self.upper))


@dataclass(frozen=True)
class Study:
    """What a study shows on a network's grid.

    Attributes:
        place: the way back.
        image_DHW: float32, about [0, 1]; None where there is none.
        label_DHW: uint8 schema ids; None where there is none.
        outside: voxels of the body that the network's grid leaves out.
        source: whose ids the mask was read by; None where there is none.
    """

    place: Place
    image_DHW: Image | None = None
    label_DHW: LabelMap | None = None
    outside: int = 0
    source: str | None = None

    @property
    def size(self) -> Size:
        """Size (D, H, W) on the network's grid."""
        x, y, z = self.place.grid.shape_out
        return triple_to_dhw((x, y, z), self.place.schema.slice_axis)


class NetworkGrid:
    """The grid that a network knows, onto which studies are put.

    Args:
        schema: name of the label schema, or its YAML file.
        spacing: voxel size (D, H, W) in mm that the network was trained at.
        size: voxels (D, H, W) around the middle of the body; None takes as many as it needs.
        source: whose ids masks hold (`schema.sources`, or "schema"); None takes the schema's own
            where they fit, or else the one source that explains a mask.

    Raises:
        MedpairError: for an unknown schema or source.
    """

    def __init__(
        self,
        schema: str,
        spacing: Sequence[float],
        size: Sequence[int] | None = None,
        source: str | None = None,
    ) -> None:
        self.schema, self.source = load_schema(schema), source
        self.schema.source_map(source)
        d, h, w = (float(v) for v in spacing)
        depth, height, width = size or (0, 0, 0)
        self.settings = Settings(
            self.schema,
            intensity_of(self.schema),
            (d, h, w),
            (int(depth), int(height), int(width)) if size else None,
            "nonzero",
            None,
            "schema",
        )

    def scan(self, image: Array, affine: Array) -> Study:
        """Return a scan, normalised as `medpair prepare` does; where its body is, is guessed.

        Args:
            image: (X, Y, Z), raw intensities.
            affine: voxel index to mm, RAS+.

        Raises:
            MedpairError: for an image without contrast.
        """
        return replace(self._placed(self._raw(image, None, affine), affine), label_DHW=None)

    def mask(self, label: Array, affine: Array) -> Study:
        """Return a mask in schema ids, its container added where it lacks one.

        Args:
            label: (X, Y, Z), ids as the grid's source says.
            affine: voxel index to mm, RAS+.

        Raises:
            MedpairError: for ids that no source explains, or an empty mask.
        """
        known, source = self._ids(label)
        label_ras, affine_ras = to_ras(known, affine)
        ids = add_container(np.ascontiguousarray(label_ras), None, self.schema)
        raw = Raw(np.zeros(ids.shape, np.float32), ids, affine_ras, {}, ())
        grid = plan(raw, self.settings)
        return Study(
            self._blank(grid, affine),
            None,
            place_labels(ids, grid, self.schema),
            lost_voxels(ids, grid),
            source,
        )

    def pair(self, image: Array, label: Array, affine: Array) -> Study:
        """Return a scan and its mask; arguments and errors as for `scan` and `mask`."""
        ids, source = self._ids(label)
        return replace(self._placed(self._raw(image, ids, affine), affine), source=source)

    def space(self, image: Array, affine: Array) -> Study:
        """Return the network's grid in the place of a study, whose voxels tell no more than that.

        Args:
            image: (X, Y, Z); the middle of the body in it, or of what is not 0, is the grid's.
            affine: voxel index to mm, RAS+.
        """
        raw = self._raw(image, None, affine)
        grid = plan(raw, self.settings)
        return Study(self._blank(grid, affine), outside=lost_voxels(raw.label, grid))

    def _ids(self, label: Array) -> tuple[LabelMap, str]:
        values, _ = integer_ids(label, "study")
        source = self.source or self._reading(unique_ids(values))
        ids: LabelMap = self.schema.remap(values, source)
        if not ids.any():
            raise MedpairError(
                f"study: empty mask, wanted some of {', '.join(self.schema.names[1:])}; "
                "choose a study that is a mask"
            )
        return ids, source

    def _reading(self, values: Sequence[int]) -> str:
        readings = self.schema.readings(set(values))
        # viewers mostly send back what we made
        if IDENTITY in readings:
            return IDENTITY
        if len(set(readings.values())) != 1:
            fit = " and ".join(readings) or "no source"
            raise MedpairError(
                f"study: ids {list(values[:12])} fit {fit} of schema {self.schema.name}, wanted "
                "one; give the mask in the schema's own ids"
            )
        return next(iter(readings))

    def _raw(self, image: Array, ids: LabelMap | None, affine: Array) -> Raw:
        image_ras, affine_ras = to_ras(np.asarray(image, dtype=np.float32), affine)
        if ids is None:
            return Raw(image_ras, _body(image_ras, self.schema), affine_ras, {}, ())
        label_ras, _ = to_ras(ids, affine)
        full = add_container(np.ascontiguousarray(label_ras), image_ras, self.schema)
        return Raw(image_ras, full, affine_ras, {}, ())

    def _placed(self, raw: Raw, affine: Array) -> Study:
        placed = place(raw, self.settings)
        where = Place(
            self.schema, placed.grid, np.asarray(affine, float), placed.lower, placed.upper
        )
        return Study(where, placed.image, placed.label, lost_voxels(raw.label, placed.grid))

    def _blank(self, grid: Grid, affine: Array) -> Place:
        rule = self.settings.intensity
        known = rule["method"] == "window"  # Hounsfield units hold without a scan
        lower, upper = (float(rule["lower"]), float(rule["upper"])) if known else (0.0, 1.0)
        return Place(self.schema, grid, np.asarray(affine, float), lower, upper)


def _body(image_ras: Image, schema: LabelSchema) -> LabelMap:
    """Where the container's rule sees the body; elsewhere the crop takes the non-zero voxels."""
    nothing = np.zeros(image_ras.shape, np.uint8)
    if schema.container is None or schema.container.support == "labels":
        return nothing
    return np.asarray(add_container(nothing, image_ras, schema))
