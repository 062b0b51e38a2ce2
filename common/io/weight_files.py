"""Where the parts of a weight file lie; needs no torch."""

from pathlib import Path


def shards_folder(path: Path) -> Path:
    """Return the folder of the shards of a weight file, there or not."""
    return path.with_name(f"{path.stem}_shards")


def shards_of(path: Path) -> list[Path]:
    """Return the shards that lie beside a weight file, in the order of their names."""
    return sorted(shards_folder(path).glob("*.pt"))
