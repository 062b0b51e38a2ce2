"""Where a pair comes from: a real scan, or what its generated image was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REAL, GENERATED, CHANGED, GIVEN = "real", "generated", "real, changed", "given"


@dataclass(frozen=True)
class Provenance:
    """What of a pair is real.

    Attributes:
        image: "real" or "generated".
        mask: "real", "real, changed" (deformed or edited), "generated", or "given" where it is not
            known which.
        slice: "real" or "generated" where the image starts from a slice; None otherwise.
        maker: pipeline or bundle; None for a real scan.
    """

    image: str
    mask: str
    slice: str | None = None
    maker: str | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the image was generated."""
        return self.image == GENERATED

    def says(self) -> str:
        """Return a sentence that names nobody."""
        if not self.synthetic:
            return "Real scan, resampled, intensities normalised."
        mask = {
            GENERATED: "a generated mask",
            REAL: "the mask of a real scan",
            CHANGED: "the changed mask of a real scan",
            GIVEN: "a given mask",
        }[self.mask]
        start = "" if self.slice is None else f", starting from a {self.slice} slice"
        return f"Image generated for {mask}{start}, by {self.maker} of medpair."


def provenance_of(header: Mapping[str, Any], record: Mapping[str, Any]) -> Provenance:
    """Return the provenance of a pair.

    Args:
        header: ``dataset.json`` of its pair set, without its lists.
        record: its line of the manifest.
    """
    if header.get("phantom"):
        return Provenance(GENERATED, GENERATED, None, "the phantoms")
    source = record.get("source")
    made = {**(header.get("generated") or {}), **(record.get("parameters") or {})}
    if source != GENERATED and not made:
        return Provenance(REAL, REAL)
    informed = record.get("informed")
    kind = None
    if isinstance(informed, Mapping):
        kind = GENERATED if informed.get("kind") == GENERATED else REAL
    changed = any(record.get(key) for key in ("mask_augmentation", "edit", "edits"))
    stages = made.get("stages")
    drawn = source == GENERATED and (not isinstance(stages, Mapping) or "mask" in stages)
    mask = GENERATED if drawn else GIVEN if source == GENERATED else CHANGED if changed else REAL
    maker = made.get("pipeline") or made.get("bundle") or made.get("generated_by") or "a bundle"
    return Provenance(GENERATED, mask, kind, str(maker))
