"""Choosing the informed slice of a target mask: another person's, a generated or a given one.

An informed slice that shows a much smaller or larger body than the mask misleads the generator
(GEM-3D, appendix F.2), so the area of its body is compared with that of the mask at the slice it
stands for. D, H, W volume size; V volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.data.bodies import body_of_image, overlap, shown_slices
from common.errors import MedpairError
from gem3d.generate import InformedSlice
from gem3d.scans import SourceScan

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

CROSS = 1
GENERATED = 2


class SliceSource(Protocol):
    """A generator of single slices, such as the position-conditioned slice diffusion."""

    def __call__(
        self,
        position: Sequence[float],
        size: tuple[int, int],
        *,
        volumes: Sequence[int],
        seed: int,
        attempt: int = 0,
    ) -> Tensor:
        """Return slices (V, H, W) in [-1, 1].

        Args:
            position: slice / D in [0, 1) of each.
            size: (H, W) in pixels.
            volumes: numbers that key the noise.
            seed: the run's seed.
            attempt: number of the try, where an earlier one was refused.
        """


@dataclass(frozen=True)
class BodyRule:
    """How well the body of an informed slice must fit the mask.

    Args:
        tolerance: largest accepted |ratio - 1| of the body areas; 0.15 of methods, section 8.4.
        share: starts are drawn among slices with at least this share of the fullest slice's body.
        tries: start positions tried before the nearest body shape is taken.
    """

    tolerance: float = 0.15
    share: float = 0.25
    tries: int = 8

    def __post_init__(self) -> None:
        if self.tolerance <= 0 or not 0 < self.share <= 1 or self.tries < 1:
            raise MedpairError(
                f"body rule: tolerance {self.tolerance:g}, share {self.share:g}, tries "
                f"{self.tries}; want > 0, in (0, 1] and >= 1; correct them"
            )

    def accepts(self, ratio: float) -> bool:
        """Return whether bodies of this ratio of areas fit."""
        return abs(ratio - 1) <= self.tolerance


@dataclass(frozen=True)
class Choice:
    """An informed slice and where it came from, ready for the manifest."""

    informed: InformedSlice
    record: dict[str, Any]


@dataclass(frozen=True)
class _Fit:
    """A candidate: a body that could inform a slice of the mask."""

    scan: int
    slice: int
    start: int
    ratio: float
    overlap: float


def starts_of(
    label_DHW: LabelMap, rule: BodyRule, seed: int, volume: int, purpose: int
) -> list[int]:
    """Return the start positions to try, in an order drawn from (seed, volume).

    Raises:
        MedpairError: for an empty mask.
    """
    shown = shown_slices(label_DHW, rule.share)
    if not len(shown):
        raise MedpairError("label: an empty mask, wanted a body; remove it from the pair set")
    drawn = np.random.default_rng([seed, volume, purpose]).permutation(shown)
    return [int(start) for start in drawn[: rule.tries]]


def cross_slice(
    label_DHW: LabelMap,
    person: str,
    references: Sequence[SourceScan],
    *,
    seed: int,
    volume: int,
    rule: BodyRule | None = None,
) -> Choice:
    """Choose a slice of another person at the same relative position.

    A start position is drawn; one of the references whose body fits there is drawn. Where none
    fits, the next position is tried, and after the last the nearest body shape of all is taken.

    Args:
        label_DHW: (D, H, W) uint8 target mask.
        person: whose mask it is; this person's scans are never chosen.
        references: the scans to choose from, of any depth but the mask's in-plane size.
        seed: the run's seed.
        volume: number of the volume; with the seed it fixes the choice.
        rule: the body rule; default `BodyRule()`.

    Raises:
        MedpairError: if there is no scan of another person, the sizes differ, or the mask is empty.

    Source: GEM-3D, section 3.3 (position-normalised cross-sampling) and appendix F.2.
    """
    rule = rule or BodyRule()
    others = [k for k, scan in enumerate(references) if scan.person != person]
    if not others:
        raise MedpairError(
            f"informed slice: no scan of anyone but {person!r} among {len(references)}; want "
            "another person's; add scans or use --informed generated"
        )
    rng = np.random.default_rng([seed, volume, CROSS, 1])
    tried: list[_Fit] = []
    for start in starts_of(label_DHW, rule, seed, volume, CROSS):
        fits = [_fit_of(label_DHW, start, references, k) for k in others]
        good = [fit for fit in fits if rule.accepts(fit.ratio)]
        if good:
            return _cross_choice(references, good[int(rng.integers(len(good)))], fits=True)
        tried += fits
    return _cross_choice(references, max(tried, key=lambda fit: fit.overlap), fits=False)


def generated_slice(
    label_DHW: LabelMap,
    source: SliceSource,
    *,
    seed: int,
    volume: int,
    rule: BodyRule | None = None,
) -> Choice:
    """Generate an informed slice at a drawn position; of those tried the first that fits.

    Args:
        label_DHW: (D, H, W) uint8 target mask.
        source: the slice generator.
        seed: the run's seed.
        volume: number of the volume.
        rule: the body rule; default `BodyRule()`.

    Raises:
        MedpairError: if the slices have another size than the mask, or the mask is empty.
    """
    rule = rule or BodyRule()
    tried: list[tuple[_Fit, Tensor]] = []
    depth, height, width = label_DHW.shape
    for attempt, start in enumerate(starts_of(label_DHW, rule, seed, volume, GENERATED)):
        image_HW = source(
            [start / depth], (height, width), volumes=[volume], seed=seed, attempt=attempt
        )[0]
        unit = ((image_HW.float().cpu().numpy() + 1) / 2).astype(np.float32)
        fit = _fit(body_of_image(unit), label_DHW[start] > 0, -1, start, start)
        tried.append((fit, image_HW))
        if rule.accepts(fit.ratio):
            break
    fits = rule.accepts(tried[-1][0].ratio)
    fit, image_HW = tried[-1] if fits else max(tried, key=lambda item: item[0].overlap)
    record = {"kind": "generated", **_measured(fit, fits)}
    return Choice(InformedSlice(image_HW.float().cpu(), fit.start, "generated"), record)


def given_slice(
    label_DHW: LabelMap,
    image_HW: Image,
    body_HW: Mask,
    *,
    source: str,
    position: float,
    reach: int = 0,
    impose: bool = False,
    allow_mismatch: bool = False,
    rule: BodyRule | None = None,
) -> Choice:
    """Use a slice that the user chose; refuse it where its body does not fit.

    Args:
        label_DHW: (D, H, W) uint8 target mask.
        image_HW: (H, W) normalised intensities (0..1, clipped).
        body_HW: (H, W) the body that the slice shows.
        source: name of the slice, for errors and the manifest.
        position: slice / D in [0, 1) where it was taken.
        reach: target slices up to so far from that position may be the one it stands for, the
            nearest that fits.
        impose: whether it is the volume's true slice and becomes part of the result.
        allow_mismatch: take the nearest body shape where none fits.
        rule: the body rule; default `BodyRule()`.

    Raises:
        MedpairError: if the sizes differ or no body fits.
    """
    rule = rule or BodyRule()
    depth = len(label_DHW)
    middle = min(int(position * depth + 1e-6), depth - 1)  # k / D * D may fall below k
    near = sorted(range(depth), key=lambda z: (abs(z - middle), z))[: 1 + 2 * reach]
    near = [z for z in near if abs(z - middle) <= reach]
    fits = [_fit(body_HW, label_DHW[z] > 0, -1, middle, z, source) for z in near]
    good = [fit for fit in fits if rule.accepts(fit.ratio)]
    if not good and not allow_mismatch:
        raise MedpairError(
            f"informed slice {source}: its body has {np.count_nonzero(body_HW)} pixels, the mask's "
            f"at slice {middle} {np.count_nonzero(label_DHW[middle])}; want areas within "
            f"{rule.tolerance:.0%}; give another slice or --allow-mismatch"
        )
    fit = good[0] if good else max(fits, key=lambda fit: fit.overlap)
    image = torch.from_numpy(2 * np.clip(image_HW, 0, 1) - 1).float()
    record = {"kind": "given", "source": source, **_measured(fit, bool(good))}
    return Choice(InformedSlice(image, fit.start, source, impose), record)


def _fit_of(label_DHW: LabelMap, start: int, references: Sequence[SourceScan], scan: int) -> _Fit:
    reference = references[scan]
    depth = len(reference.label)
    index = min(start * depth // len(label_DHW), depth - 1)
    body = reference.label[index] > 0
    return _fit(body, label_DHW[start] > 0, scan, index, start, reference.id)


def _fit(body: Mask, wanted: Mask, scan: int, index: int, start: int, name: str = "") -> _Fit:
    if body.shape != wanted.shape:
        raise MedpairError(
            f"informed slice {name}: size {body.shape}, the mask's {wanted.shape} wanted; prepare "
            "both with one spacing and size"
        )
    area = int(np.count_nonzero(wanted))
    ratio = int(np.count_nonzero(body)) / area if area else float("inf")
    return _Fit(scan, index, start, ratio, overlap(body, wanted))


def _measured(fit: _Fit, fits: bool) -> dict[str, Any]:
    ratio = round(fit.ratio, 4) if np.isfinite(fit.ratio) else None
    return {
        "start": fit.start,
        "area_ratio": ratio,
        "body_overlap": round(fit.overlap, 4),
        "within_tolerance": fits,
    }


def _cross_choice(references: Sequence[SourceScan], fit: _Fit, *, fits: bool) -> Choice:
    scan = references[fit.scan]
    image = torch.from_numpy(2 * np.clip(scan.image[fit.slice], 0, 1) - 1).float()
    record = {"kind": "cross", "id": scan.id, "person": scan.person, "slice": fit.slice}
    return Choice(InformedSlice(image, fit.start, scan.id), record | _measured(fit, fits))
