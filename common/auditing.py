"""Did the generator remember its training? Opens the audit of the bundle that judges pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cards import WITHOUT_REAL

if TYPE_CHECKING:
    from common.progress import Progress

# torch and monai take seconds to import: functions import what they need when they run.

StrPath = str | Path
BUNDLE = "segmentation_eval"
NO_OVERLAY = ""


def audit(
    pairset: StrPath,
    *,
    out: StrPath,
    real: StrPath | None = None,
    training: StrPath | None = None,
    heldout: StrPath | None = None,
    action: str | None = None,
    real_pictures: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Find generated pairs that copy a scan of the training; mark the pair set as audited.

    Args:
        pairset: the generated pair set.
        out: gets ``audit.json``, ``card.json`` and ``card.html``.
        real: pair set of real scans: the generator has seen its split "training", its split
            "validation" was kept back.
        training: instead of `real`, pair set whose split "training" the generator has seen.
        heldout: pair set of other persons, all of whose pairs count; None takes the split
            "validation" of the other.
        action: "drop" deletes copies from the pair set, "quarantine" moves them into its folder
            ``quarantine``, with the reason; None leaves them.
        real_pictures: whether the card shows slices of real scans.
        progress: called with ("audit", done, total).

    Returns:
        The folder; ``problems`` in its ``audit.json`` names damaged pairs that were left out.

    Raises:
        MedpairError: for sets of another schema, spacing or size, a person in training who was
            kept back, or a pair set in use.
    """
    from common.errors import MedpairError
    from common.stages import run_use

    if (real is None) == (training is None):
        raise MedpairError(
            f"--real: {real}, --training: {training}; wanted one of them: the scans that the "
            "generator was trained on"
        )
    given: dict[str, Any] = {
        "synthetic_dir": str(pairset),
        "training_dir": str(real if training is None else training),
        "output_dir": str(Path(out).absolute()),
    }
    if heldout is not None:
        given["held_out_dir"] = str(heldout)
    if action is not None:
        given["action"] = action
    if not real_pictures:
        given["card"] = WITHOUT_REAL
    run_use(BUNDLE, "audit", NO_OVERLAY, given, progress)
    return Path(out)
