"""The manifest: one line per finished pair, ordered by id, equal bytes for equal content."""

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import common
from common.errors import MedpairError
from common.io.atomic import to_json, write_text

Record = dict[str, Any]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(*names: str) -> dict[str, str]:
    """Versions of installed distributions by name; "none" where one is not installed.

    Args:
        names: distributions; by default those whose version can change a pair's bytes.
    """
    found = {}
    for name in names or ("medpair", "numpy", "scipy", "nibabel"):
        if name == "medpair":  # a packed bundle runs without the distribution
            found[name] = common.__version__
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


class Manifest:
    """The records of a pair set's `manifest.jsonl`, kept sorted by id on disk."""

    def __init__(self, path: str | Path) -> None:
        """Read the manifest, or start an empty one where the file is missing.

        Args:
            path: the `manifest.jsonl` file.

        Raises:
            MedpairError: for a line that is no JSON object with an id, or an id twice.
        """
        self.path = Path(path)
        self._records: dict[str, Record] = {}
        self._seen: tuple[int, ...] | None = None
        self.reload()

    def reload(self) -> None:
        """Read the file again where another process has changed it; errors as on opening."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._records = {} if stamp is None else {r["id"]: r for r in self._parse()}
            self._seen = stamp

    def _stamp(self) -> tuple[int, ...] | None:
        if not self.path.is_file():
            return None
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _parse(self) -> Iterator[Record]:
        seen: set[str] = set()
        lines = self.path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                identity = record["id"]
            except (ValueError, KeyError, TypeError) as error:
                raise MedpairError(
                    f"{self.path}: line {number} is not a JSON object with an id; "
                    "delete that line, its pair is then made again"
                ) from error
            if identity in seen:
                raise MedpairError(f"{self.path}: id '{identity}' stands twice; delete one line")
            seen.add(identity)
            yield record

    def __contains__(self, identity: str) -> bool:
        return identity in self._records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return (self._records[identity] for identity in self.ids())

    def __getitem__(self, identity: str) -> Record:
        return self._records[identity]

    def ids(self) -> tuple[str, ...]:
        """All ids, sorted."""
        return tuple(sorted(self._records))

    def put(self, record: Record) -> None:
        """Add or replace the record of one id and rewrite the file atomically, sorted by id.

        Args:
            record: JSON-ready, with the key "id".
        """
        self._rewrite({**self._records, record["id"]: record})

    def drop(self, identity: str) -> None:
        """Remove the record of one id, if there is one, and rewrite the file atomically."""
        if identity in self._records:
            self._rewrite({k: v for k, v in self._records.items() if k != identity})

    def _rewrite(self, records: dict[str, Record]) -> None:
        lines = (to_json(records[identity]) + "\n" for identity in sorted(records))
        write_text(self.path, "".join(lines))
        self._records, self._seen = records, self._stamp()
