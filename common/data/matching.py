"""Which image belongs to which mask, which person each shows, and which split they join."""

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import MedpairError
from common.io.nifti import SUFFIXES, stem

_LABEL_WORD = re.compile(
    r"(^|[_.\-])(labels?|labelmap|dseg|segs?|segmentation|masks?|gt|lesions?)$", re.IGNORECASE
)
_SPLITS = ("training", "validation")


@dataclass(frozen=True)
class Scan:
    """One input pair: id, image and label (a file, or a DICOM folder), person, split.

    `series` names one of several image series in a folder, by UID or modality.
    """

    id: str
    image: Path
    label: Path
    person: str
    split: str
    series: str | None = None


def match_files(
    images: str | Path,
    labels: str | Path,
    image_pattern: str | None = None,
    label_pattern: str | None = None,
) -> dict[str, tuple[Path, Path]]:
    """Match images and masks by name.

    Args:
        images: folder of images; or of DICOM folders, one per scan, or one such folder.
        labels: folder of masks; may be the same one. For DICOM images: NIfTI masks, or an
            RTSTRUCT or SEG per scan, in a file or folder of its id.
        image_pattern: file name with `{id}`, for example "{id}_T1.nii.gz", or a path below the
            folder, "{id}/{id}_T1.nii.gz"; `*` stands for anything but "/". Without it: every
            volume, in a shared folder every one whose name does not end in a word like "labels"
            or "seg"; the ending that all names share (from its `_`, `-` or `.` on) is not part of
            the id.
        label_pattern: the same for masks.

    Returns:
        {id: (image, mask)}, sorted by id.

    Raises:
        MedpairError: for missing folders or files, and for files without a partner.
    """
    image_dir, label_dir = Path(images), Path(labels)
    if holds_dicom(image_dir):
        return _dicom_pairs(image_dir, label_dir)
    shared = image_dir.resolve() == label_dir.resolve()
    found = []
    for folder, pattern, is_label in (
        (image_dir, image_pattern, False),
        (label_dir, label_pattern, True),
    ):
        files = every = _volumes(folder, below="/" in (pattern or ""))
        if pattern is None and shared:
            files = [f for f in files if bool(_LABEL_WORD.search(stem(f))) == is_label]
        found.append(_by_pattern(folder, files, pattern) if pattern else _by_stem(files))
        if not found[-1]:
            kind = "masks" if is_label else "images"
            wanted = pattern or "names that end in _labels, _seg or _mask" * is_label or "images"
            raise MedpairError(
                f"{folder}: no {kind} among {len(every)} volumes (wanted {wanted}); "
                f"give {'label' if is_label else 'image'}_pattern or correct the folder"
            )
    return _paired(found[0], found[1], image_dir, label_dir)


def _volumes(folder: Path, below: bool = False) -> list[Path]:
    if not folder.is_dir():
        raise MedpairError(f"{folder}: no such folder; correct the path")
    files = _visible_volumes(folder, folder.rglob("*") if below else folder.iterdir())
    if not files:
        inner = [] if below else _visible_volumes(folder, folder.rglob("*"))
        repair = "correct the path"
        if inner:
            shown = inner[0].relative_to(folder).as_posix()
            repair = f"for files such as {shown} give patterns with folders, {{id}}/<name>"
        raise MedpairError(f"{folder}: no {', '.join(SUFFIXES)} file in it; {repair}")
    return files


def _visible_volumes(folder: Path, paths: Iterable[Path]) -> list[Path]:
    files = [f for f in sorted(paths) if f.name.lower().endswith(SUFFIXES) and not f.is_dir()]
    return [f for f in files if not any(p.startswith(".") for p in f.relative_to(folder).parts)]


def holds_dicom(folder: Path) -> bool:
    """Return whether a folder holds no volume files, but other files in it or one level below."""
    if not folder.is_dir():
        return False
    files = [f for f in folder.iterdir() if not f.name.startswith(".")]
    if any(f.name.lower().endswith(SUFFIXES) for f in files):
        return False
    inner = [f for d in files if d.is_dir() for f in d.rglob("*")]
    return any(_may_be_dicom(f) for f in (*files, *inner))


def _may_be_dicom(file: Path) -> bool:
    if not file.is_file() or file.name.startswith("."):
        return False
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _dicom_pairs(image_dir: Path, label_dir: Path) -> dict[str, tuple[Path, Path]]:
    """Pair DICOM folders with their labels, by the names of the folders."""
    alone = any(_may_be_dicom(f) for f in image_dir.iterdir())
    folders = [image_dir] if alone else [d for d in sorted(image_dir.iterdir()) if d.is_dir()]
    folders = [folder for folder in folders if not folder.name.startswith(".")]
    if image_dir.resolve() == label_dir.resolve():
        folders = [image_dir] if _is_one_scan(folders) else folders
        return {d.resolve().name: (d, d) for d in folders}
    images = {d.resolve().name: d for d in folders}
    if label_dir.is_file():
        if len(images) > 1:
            raise MedpairError(
                f"{label_dir}: one file for {len(images)} scans, wanted one each; give a folder"
            )
        return {i: (d, label_dir) for i, d in images.items()}
    if not label_dir.is_dir():
        raise MedpairError(f"{label_dir}: no such folder; correct the path")
    if alone and any(_may_be_dicom(f) for f in label_dir.iterdir()):
        return {i: (d, label_dir) for i, d in images.items()}
    entries = [f for f in sorted(label_dir.iterdir()) if not f.name.startswith(".")]
    volumes = [f for f in entries if f.name.lower().endswith(SUFFIXES)]
    named = _unique([(entry.name.removesuffix(".dcm"), entry) for entry in entries])
    labels = _by_stem(volumes) if volumes else named
    if alone and len(labels) == 1:  # one scan and one mask were named, whatever they are called
        return {i: (d, next(iter(labels.values()))) for i, d in images.items()}
    _check_partners(images, labels, image_dir, label_dir)
    return {identity: (images[identity], labels[identity]) for identity in sorted(images)}


def _is_one_scan(folders: Sequence[Path]) -> bool:
    """Return whether folders are the series of one scan: some hold labels alone, some images."""
    from common.io.dicom import modalities
    from common.io.dicom_labels import KINDS

    alone = [all(kind in KINDS for kind in modalities(folder)) for folder in folders]
    if not any(alone) or all(alone):
        return False
    others = [folder for folder, labels in zip(folders, alone, strict=True) if not labels]
    return not any(kind in KINDS for folder in others for kind in modalities(folder))


def _by_pattern(folder: Path, files: list[Path], pattern: str) -> dict[str, Path]:
    head, *tails = (re.escape(p).replace(r"\*", "[^/]*") for p in pattern.split("{id}"))
    if not tails:
        raise MedpairError(
            f"pattern '{pattern}': no {{id}} in it; wanted {{id}}_T1.nii.gz, {{id}}/T1.nii.gz"
        )
    # further {id} stand for the same text again
    wanted = re.compile(f"{head}([^/]+)" + r"\1".join(tails))
    names = [(wanted.fullmatch(f.relative_to(folder).as_posix()), f) for f in files]
    return _unique([(match.group(1), f) for match, f in names if match])


def _by_stem(files: list[Path]) -> dict[str, Path]:
    stems = [stem(f) for f in files]
    ending = _shared_ending(stems)
    return _unique([(s[: len(s) - len(ending)], f) for s, f in zip(stems, files, strict=True)])


def _shared_ending(stems: list[str]) -> str:
    """The longest ending all names share that starts at a separator; "" for a single name's id."""
    words = [re.split(r"(?=[_.\-])", s) for s in stems]
    shared = ""
    for parts in zip(*(reversed(w[1:]) for w in words), strict=False):
        if len(set(parts)) > 1 or (len(stems) == 1 and not _LABEL_WORD.search(parts[0])):
            break
        shared = parts[0] + shared
    return shared


def _unique(items: list[tuple[str, Path]]) -> dict[str, Path]:
    table: dict[str, Path] = {}
    for identity, path in items:
        if identity in table:
            raise MedpairError(
                f"{path}: id '{identity}' already belongs to {table[identity].name}; "
                "give patterns with {id}"
            )
        table[identity] = path
    return table


def _paired(
    images: Mapping[str, Path], labels: Mapping[str, Path], image_dir: Path, label_dir: Path
) -> dict[str, tuple[Path, Path]]:
    if len(images) == len(labels) == 1:
        (identity, image), (_, label) = next(iter(images.items())), next(iter(labels.items()))
        return {_common_id(image, label) or identity: (image, label)}
    _check_partners(images, labels, image_dir, label_dir)
    return {identity: (images[identity], labels[identity]) for identity in sorted(images)}


def _check_partners(
    images: Mapping[str, Path], labels: Mapping[str, Path], image_dir: Path, label_dir: Path
) -> None:
    lone = [(image_dir, "a mask", sorted(set(images) - set(labels)))]
    lone.append((label_dir, "an image", sorted(set(labels) - set(images))))
    for folder, partner, ids in lone:
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise MedpairError(
                f"{folder}: {len(ids)} files without {partner} ({shown}); add or remove files, or "
                "give image_pattern and label_pattern"
            )


def _common_id(image: Path, label: Path) -> str:
    first, second = stem(image), stem(label)
    length = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    shared = first[: min(len(first), len(second)) if length is None else length]
    return shared.rstrip("_.-")


def read_persons(path: str | Path, ids: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Read who is who: a CSV with columns id, person and optionally split.

    Args:
        path: the CSV file; lines of other ids are ignored.
        ids: the ids that must be in it.

    Returns:
        {id: (person, split or None)}.

    Raises:
        MedpairError: for missing columns or ids, unknown splits, a person in two splits.
    """
    path = Path(path)
    if not path.is_file():
        raise MedpairError(f"{path}: no such file; correct --persons")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(line for line in file if not line.startswith("#"))
        if not {"id", "person"} <= set(reader.fieldnames or ()):
            raise MedpairError(
                f"{path}: columns {reader.fieldnames}, wanted id,person[,split]; add them"
            )
        rows = {(row["id"] or "").strip(): row for row in reader}
    missing = sorted(set(ids) - set(rows))
    if missing:
        raise MedpairError(
            f"{path}: no line for {', '.join(missing[:5])} ({len(missing)} ids); add them"
        )
    table = {
        i: (rows[i]["person"].strip(), (rows[i].get("split") or "").strip() or None) for i in ids
    }
    _check_splits(path, table)
    return table


def _check_splits(path: Path, table: Mapping[str, tuple[str, str | None]]) -> None:
    splits: dict[str, str | None] = {}
    for identity, (person, split) in sorted(table.items()):
        if split not in (None, *_SPLITS):
            raise MedpairError(
                f"{path}: id {identity} has split '{split}', wanted {' or '.join(_SPLITS)}"
            )
        if splits.setdefault(person, split) != split:
            raise MedpairError(
                f"{path}: person {person} stands in two splits; put all scans into one"
            )


def split_persons(persons: Iterable[str], holdout: float, seed: int) -> dict[str, str]:
    """Draw the persons that are kept back for validation.

    Args:
        persons: names; repeats count once.
        holdout: share to keep back, 0..1; at least one person where it is positive and two exist.
        seed: draws another share; equal seeds give equal shares on every machine.

    Returns:
        {person: "training" or "validation"}.

    Raises:
        MedpairError: for a share outside 0..1.
    """
    if not 0.0 <= holdout < 1.0:
        raise MedpairError(f"holdout: {holdout}, wanted 0 <= holdout < 1; correct it")
    # ordered by a hash of the name, so that the order stays when persons are added later
    order = sorted(set(persons), key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).hexdigest())
    count = round(holdout * len(order))
    if holdout > 0 and len(order) > 1:
        count = min(max(1, count), len(order) - 1)
    return {p: _SPLITS[1] if i < count else _SPLITS[0] for i, p in enumerate(order)}


def plan_scans(
    files: Mapping[str, tuple[Path, Path]],
    persons: str | Path | None,
    holdout: float,
    seed: int,
    series: str | None = None,
) -> tuple[Scan, ...]:
    """Join files, persons and splits; without a CSV every scan is a person of its own.

    Args:
        files: from `match_files`.
        persons: CSV for `read_persons`.
        holdout: share of persons kept back where the CSV names no split.
        seed: for that draw.
        series: which image series of DICOM folders, by UID or modality.

    Returns:
        The scans, sorted by id.

    Raises:
        MedpairError: as `read_persons` and `split_persons`.
    """
    table = read_persons(persons, files) if persons else {i: (i, None) for i in files}
    drawn = split_persons((p for p, split in table.values() if split is None), holdout, seed)
    return tuple(
        Scan(i, image, label, table[i][0], table[i][1] or drawn[table[i][0]], series)
        for i, (image, label) in sorted(files.items())
    )
