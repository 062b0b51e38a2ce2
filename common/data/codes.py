"""What a label is called in SNOMED CT: DICOM names segments by code, not by free text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import MedpairError

CATEGORIES: Mapping[str, tuple[str, str]] = {
    "anatomy": ("123037004", "Anatomical Structure"),
    "lesion": ("49755003", "Morphologically Altered Structure"),
    "substance": ("91720002", "Body Substance"),
}
"""Value and meaning of the category of a segment (DICOM PS3.16, CID 7150)."""
SIDES: Mapping[str, tuple[str, str]] = {
    "left": ("7771000", "Left"),
    "right": ("24028007", "Right"),
}
"""Value and meaning of a laterality (DICOM PS3.16, CID 244)."""


@dataclass(frozen=True)
class Code:
    """A code with its meaning.

    Attributes:
        value: such as "39607008".
        meaning: such as "Lung".
        scheme: "SCT" for SNOMED CT.
        side: "left", "right" or None.
        category: a key of `CATEGORIES`.
    """

    value: str
    meaning: str
    scheme: str = "SCT"
    side: str | None = None
    category: str = "anatomy"

    def __post_init__(self) -> None:
        if self.side not in (None, *SIDES) or self.category not in CATEGORIES:
            raise MedpairError(
                f"code {self.value}: side {self.side}, category {self.category}; wanted "
                f"{', '.join(SIDES)} or nothing, and one of {', '.join(CATEGORIES)}"
            )

    @property
    def key(self) -> tuple[str, str, str | None]:
        """Return what two files must share to mean the same: value, scheme, side."""
        return self.value, self.scheme, self.side

    def to_dict(self) -> dict[str, Any]:
        """Return the entries that are not the usual ones, for YAML and JSON."""
        usual = {"scheme": "SCT", "side": None, "category": "anatomy"}
        return {k: v for k, v in asdict(self).items() if k not in usual or usual[k] != v}
