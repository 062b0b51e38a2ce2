"""The command that looks into DICOM folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import out


def dicom(
    path: Annotated[Path, typer.Argument(help="Folder, or RTSTRUCT or SEG file.")],
    schema: Annotated[str | None, typer.Option(help="Say which labels structures are.")] = None,
) -> None:
    """List the series in a DICOM folder, and the structures as they are named there.

    Names are free text and may tell a patient's: this command shows them, no other one does.
    """
    from common.data.labels import load_schema
    from common.io.dicom import find_series
    from common.io.dicom_labels import KINDS, matches, open_labels

    known = None if schema is None else load_schema(schema)
    for series in find_series(path):
        _show(series.says())
        if series.modality not in KINDS:
            continue
        for file in series.files:
            labels = open_labels(file)
            found: dict[int, int] = {}
            if known is not None:
                codes = {label.code.key: label.id for label in known.labels if label.code}
                found = matches(labels.structures, known.names_and_aliases, codes)
            for one in labels.structures:
                label = "" if known is None else f" -> {_label(found.get(one.number), known.names)}"
                _show(f"  {one.number}: {one.name}{label}")


def _show(line: str) -> None:
    """Write a line that was asked for, and that no log keeps."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _label(identity: int | None, names: tuple[str, ...]) -> str:
    return "no label" if identity is None else names[identity]
