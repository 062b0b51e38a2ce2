"""Rows of slices as PNG pictures, for validation and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.data.datasets import PairSet
from common.data.labels import LabelSchema
from common.io.atomic import atomic_path

Picture = npt.NDArray[np.uint8]


def three_planes(
    volume_DHW: npt.NDArray[np.generic], slice_axis: str
) -> list[npt.NDArray[np.generic]]:
    """Return axial, coronal and sagittal middle slices, upright (superior on top).

    Args:
        volume_DHW: one volume.
        slice_axis: "AP" (D, H, W = A, S, R) or "SI" (D, H, W = S, A, R).
    """
    d, h, w = (n // 2 for n in volume_DHW.shape)
    along_d, along_h, along_w = volume_DHW[d], volume_DHW[:, h], volume_DHW[:, :, w]
    is_ap = slice_axis == "AP"
    planes = [along_h, along_d, along_w.T] if is_ap else [along_d, along_h, along_w]
    return [plane[::-1] for plane in planes]


def grey(image: npt.NDArray[np.floating]) -> Picture:
    """Return an RGB picture of values in [0, 1]."""
    level = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=-1)


def label_planes(label_DHW: npt.NDArray[np.uint8], schema: LabelSchema) -> list[Picture]:
    """Return the three middle planes of a mask in the schema's colours."""
    palette = np.asarray(schema.palette, dtype=np.uint8)
    return [palette[plane.astype(int)] for plane in three_planes(label_DHW, schema.slice_axis)]


def image_planes(image_DHW: npt.NDArray[np.floating], schema: LabelSchema) -> list[Picture]:
    """Return the three middle planes of an image with values in [0, 1]."""
    return [grey(plane.astype(np.float32)) for plane in three_planes(image_DHW, schema.slice_axis)]


def label_rows(
    label_DHW: npt.NDArray[np.uint8], schema: LabelSchema, slices: int = 8
) -> list[list[Picture]]:
    """Return one row: evenly spaced slices along D, then the three middle planes."""
    palette = np.asarray(schema.palette, dtype=np.uint8)
    depth = label_DHW.shape[0]
    picked = np.linspace(0, depth - 1, slices + 2).round().astype(int)[1:-1]
    along = [palette[label_DHW[z][::-1].astype(int)] for z in picked]
    return [along + label_planes(label_DHW, schema)]


def image_rows(
    image_DHW: npt.NDArray[np.floating], schema: LabelSchema, slices: int = 8
) -> list[list[Picture]]:
    """Return one row as `label_rows` does, for an image with values in [0, 1]."""
    picked = np.linspace(0, image_DHW.shape[0] - 1, slices + 2).round().astype(int)[1:-1]
    return [[grey(image_DHW[z][::-1]) for z in picked] + image_planes(image_DHW, schema)]


def save_rows(rows: Sequence[Sequence[Picture]], path: Path, scale: int = 0, gap: int = 2) -> None:
    """Write rows of pictures as one PNG, see `joined_rows`."""
    with atomic_path(path) as temporary:
        Image.fromarray(joined_rows(rows, scale, gap)).save(temporary, format="PNG")


def joined_rows(rows: Sequence[Sequence[Picture]], scale: int = 0, gap: int = 2) -> Picture:
    """Return rows of pictures as one.

    Args:
        rows: RGB pictures; those of a column may differ in size.
        scale: enlargement by repetition; 0 chooses one that makes small pictures visible.
        gap: pixels between pictures.
    """
    tallest = max(picture.shape[0] for row in rows for picture in row)
    scale = scale or max(1, round(120 / tallest))
    canvas_rows = [
        _join([np.kron(p, np.ones((scale, scale, 1), np.uint8)) for p in row], gap) for row in rows
    ]
    width = max(row.shape[1] for row in canvas_rows)
    return np.concatenate([_pad(row, row.shape[0] + gap, width) for row in canvas_rows])


def _join(pictures: Sequence[Picture], gap: int) -> Picture:
    height = max(picture.shape[0] for picture in pictures)
    return np.concatenate([_pad(p, height, p.shape[1] + gap) for p in pictures], axis=1)


def _pad(picture: Picture, height: int, width: int) -> Picture:
    h, w = picture.shape[:2]
    return np.pad(picture, ((0, height - h), (0, width - w), (0, 0)))


def contact_sheet(pairset: PairSet, path: Path, most: int = 12) -> None:
    """Write one PNG of a pair set: per pair a row of mask slices and a row of image slices.

    Args:
        pairset: the pair set.
        path: the PNG file.
        most: pairs shown; the first ones by id.
    """
    rows = []
    for identity in pairset.ids()[:most]:
        pair = pairset.read(identity)
        rows += label_rows(pair.label, pairset.schema) + image_rows(pair.image, pairset.schema)
    save_rows(rows, path)
