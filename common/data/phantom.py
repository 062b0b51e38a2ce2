"""Paired phantoms: plausible anatomy that varies with the seed, at any size, in milliseconds."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.data.anatomies import ANATOMIES, Canvas, Rng, Space, blobs, wave
from common.data.datasets import Arrays, Pair, PairSet, Size, Spacing
from common.data.intensity import intensity_of, normalise
from common.data.labels import LabelSchema, load_schema
from common.data.matching import split_persons
from common.data.views import to_dhw, triple_to_dhw, triple_to_ras
from common.errors import MedpairError
from common.io.manifest import versions
from common.progress import Progress

_TRUNK_MM, _HEAD_MM = (384.0, 320.0, 288.0), (160.0, 192.0, 160.0)  # field of view in R, A, S
_FIELD_OF_VIEW = {"thorax7": _TRUNK_MM, "abdomen4": _TRUNK_MM}
_FIRST_VALIDATION_SEED = 10_000
_AIR_HU, _NOISE_MR, _NOISE_HU = -1000.0, 0.025, 18.0


def make_phantom(
    schema: str | Path | LabelSchema, size_dhw: Sequence[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make one pair of image and mask.

    Args:
        schema: name, file, or schema; schemas without an anatomy here get an ellipsoid per label.
        size_dhw: voxels (D, H, W), at least 16 each.
        seed: 0 or more; the same seed shows the same anatomy at every size.

    Returns:
        image float32 (D, H, W), normalised to about [0, 1], 0 outside the body or brain;
        label uint8 (D, H, W) with every label of the schema.

    Raises:
        MedpairError: for a size or seed out of range.
    """
    schema = schema if isinstance(schema, LabelSchema) else load_schema(schema)
    size = _checked(size_dhw, seed)
    rng = np.random.default_rng([seed, *hashlib.sha256(schema.name.encode()).digest()[:4]])
    space = _space(triple_to_ras(size, schema.slice_axis), rng)
    empty = _AIR_HU if schema.modality == "CT" else 0.0
    canvas = Canvas(np.zeros(space.x.shape, np.uint8), np.full(space.x.shape, empty, np.float32))
    ANATOMIES.get(schema.name, blobs)(space, canvas, schema, rng)
    _keep_every_label(canvas, schema)
    image = _scan(canvas, space, schema, rng)
    return (
        np.ascontiguousarray(to_dhw(image, schema.slice_axis)),
        np.ascontiguousarray(to_dhw(canvas.label, schema.slice_axis)),
    )


def _checked(size_dhw: Sequence[int], seed: int) -> Size:
    if len(size_dhw) != 3 or min(size_dhw) < 16:
        raise MedpairError(f"size: {tuple(size_dhw)}, wanted three (D, H, W) of at least 16 voxels")
    if seed < 0:
        raise MedpairError(f"seed: {seed}, wanted 0 or more")
    return int(size_dhw[0]), int(size_dhw[1]), int(size_dhw[2])


def _space(shape_ras: tuple[int, int, int], rng: Rng) -> Space:
    """Coordinates of voxel centres, bent by a smooth random field of a few per cent."""
    grids = np.meshgrid(
        *((np.arange(n, dtype=np.float32) * 2 + 1) / n - 1 for n in shape_ras),
        indexing="ij",
        sparse=True,
    )
    x, y, z = grids
    bent = [axis + np.float32(0.025) * wave(rng, x, y, z, 1.0) for axis in grids]
    return Space(bent[0], bent[1], bent[2], 2.0 / min(shape_ras))


def _keep_every_label(canvas: Canvas, schema: LabelSchema) -> None:
    """Coarse grids can miss a small organ: give it the voxel nearest to the middle of the body."""
    for label in schema.labels:
        if not (canvas.label == label.id).any():
            counts = np.bincount(canvas.label.ravel(), minlength=schema.num_classes)
            host = int(counts[1:].argmax()) + 1
            places = np.argwhere(canvas.label == host)
            middle = np.array(canvas.label.shape) / 2
            nearest = places[np.linalg.norm(places - middle, axis=1).argmin()]
            canvas.label[tuple(nearest)] = label.id


def _scan(canvas: Canvas, space: Space, schema: LabelSchema, rng: Rng) -> np.ndarray:
    """Partial volume, texture and noise; a bias field for MR, a window for CT."""
    rule = intensity_of(schema)
    smooth = ndimage.gaussian_filter(canvas.value, 0.5)
    noise = rng.standard_normal(canvas.value.shape, dtype=np.float32)
    texture = wave(rng, space.x, space.y, space.z, 5.0)
    if schema.modality == "CT":
        hu = smooth + np.float32(_NOISE_HU) * noise + np.float32(6.0) * texture
        window = rule if rule["method"] == "window" else {"lower": _AIR_HU, "upper": -_AIR_HU}
        return normalise(hu, "window", float(window["lower"]), float(window["upper"]))
    bias = np.exp(np.float32(0.08) * wave(rng, space.x, space.y, space.z, 0.5))
    image = smooth * bias + np.float32(_NOISE_MR) * noise + np.float32(0.01) * texture
    # the support of a stripped brain is its non-zero voxels, so none inside may be zero
    return np.where(canvas.label > 0, np.maximum(image, np.float32(0.02)), 0).astype(np.float32)


def phantom_spacing(schema: LabelSchema, size_dhw: Sequence[int]) -> Spacing:
    """Voxel size in mm (D, H, W) that gives a phantom of this size a natural field of view."""
    field = _FIELD_OF_VIEW.get(schema.name, _HEAD_MM)
    d, h, w = triple_to_dhw(field, schema.slice_axis)
    return d / size_dhw[0], h / size_dhw[1], w / size_dhw[2]


def phantom_seeds(count: int, split: str | None) -> tuple[int, ...]:
    """Seeds of "phantom:" datasets: `count` for training, a quarter as many (one or more) else.

    Raises:
        MedpairError: for an unknown split.
    """
    training = tuple(range(count))
    validation = tuple(range(_FIRST_VALIDATION_SEED, _FIRST_VALIDATION_SEED + max(1, count // 4)))
    seeds = {"training": training, "validation": validation, None: training + validation}
    if split not in seeds:
        raise MedpairError(f"split '{split}' is unknown; choose training or validation")
    return seeds[split]


def phantom_arrays(text: str, split: str | None) -> Arrays:
    """Make the phantoms of "phantom:<schema>[:<DxHxW>[:<n>]]" in memory.

    Args:
        text: what is wanted, see `load_arrays`.
        split: "training", "validation", or None for both.

    Raises:
        MedpairError: for another form of the text.
    """
    schema, size, count = parse_phantom(text)
    seeds = phantom_seeds(count, split)
    pairs = [make_phantom(schema, size, seed) for seed in seeds]
    return Arrays(
        tuple(f"phantom-{seed:04d}" for seed in seeds),
        [image for image, _ in pairs],
        [label for _, label in pairs],
        schema,
        phantom_spacing(schema, size),
    )


def write_phantom_set(
    out: str | Path,
    schema: str | Path | LabelSchema,
    size: Sequence[int],
    n: int,
    seed: int = 0,
    spacing: Sequence[float] | None = None,
    *,
    holdout: float = 0.2,
    progress: Progress | None = None,
) -> PairSet:
    """Write a pair set of phantoms; pairs that it already holds are kept.

    Args:
        out: its folder.
        schema: name, file, or schema.
        size: voxels (D, H, W).
        n: number of pairs, with seeds seed .. seed + n - 1.
        seed: the first one.
        spacing: mm (D, H, W); None takes `phantom_spacing`.
        holdout: share of pairs kept back for validation.
        progress: called with ("phantom", pairs done, n).

    Returns:
        The pair set.

    Raises:
        MedpairError: for sizes or seeds out of range, or a folder that holds something else.
    """
    schema = schema if isinstance(schema, LabelSchema) else load_schema(schema)
    dhw = _checked(size, seed)
    if n < 1:
        raise MedpairError(f"n: {n}, wanted at least one phantom")
    mm = phantom_spacing(schema, dhw) if spacing is None else (spacing[0], spacing[1], spacing[2])
    pairset = PairSet.create(out, schema, mm, dhw, intensity_of(schema), phantom={"seed": seed})
    affine = np.diag([*triple_to_ras(mm, schema.slice_axis), 1.0])
    names = {f"phantom-{s:04d}": s for s in range(seed, seed + n)}
    splits = split_persons(names, holdout, seed)
    for done, (identity, own_seed) in enumerate(names.items(), start=1):
        if identity not in pairset.manifest:
            image, label = make_phantom(schema, dhw, own_seed)
            record = {"split": splits[identity], "seed": own_seed, "versions": versions()}
            pairset.write(Pair(identity, image, label, affine), record)
        if progress:
            progress("phantom", done, n)
    return pairset


def parse_phantom(text: str) -> tuple[LabelSchema, Size, int]:
    """Read "phantom:<schema>[:<DxHxW>[:<n>]]".

    Returns:
        Schema, size (D, H, W) and number of training pairs.

    Raises:
        MedpairError: for another form.
    """
    _, name, size_text, count_text = (text.split(":") + ["48x40x40", "4"][text.count(":") - 1 :])[
        :4
    ]
    try:
        d, h, w = (int(v) for v in size_text.split("x"))
        count = int(count_text)
        if count < 1 or text.count(":") > 3:
            raise ValueError
    except ValueError as error:
        raise MedpairError(
            f"dataset_dir: '{text}', wanted phantom:<schema>:<DxHxW>:<n>, as in "
            "phantom:brain4:48x40x40:4"
        ) from error
    return load_schema(name), (d, h, w), count
