"""What the site brings in from other places of the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARDS = "model-cards"
PAGES_OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    "docs/getting-started.ipynb": "notebook.md",
}
"""Pages that stand elsewhere in the repository: {path there: page of the site}."""


def bundles() -> list[str]:
    """Return the names of the bundles, in the order of the pipelines."""
    order = ["mcdpm_mask", "vid2vid_image", "sdm_refiner", "gem3d_volume", "segmentation_eval"]
    found = {path.parents[1].name for path in ROOT.glob("bundles/*/docs/README.md")}
    return [name for name in order if name in found] + sorted(found - set(order))


def brought_in() -> dict[str, str]:
    """Return {path in the repository: path in the site} of all that is outside docs/."""
    table = dict(PAGES_OUTSIDE)
    for name in bundles():
        table[f"bundles/{name}/docs/README.md"] = f"{CARDS}/{name}.md"
        for picture in sorted((ROOT / "bundles" / name / "docs").glob("*.png")):
            table[f"bundles/{name}/docs/{picture.name}"] = f"{CARDS}/{name}/{picture.name}"
        table[f"bundles/{name}/docs/data_license.txt"] = f"{CARDS}/{name}/data_license.txt"
    return table


def title_of(markdown: str, default: str) -> str:
    """Return the first heading of a page."""
    lines = (line for line in markdown.splitlines() if line.startswith("# "))
    return next(lines, f"# {default}").removeprefix("# ").strip()
