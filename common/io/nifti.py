"""Reading and writing medical volumes: `.nii`, `.nii.gz`, `.mgz`; every defect is named."""

import gzip
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from common.errors import MedpairError
from common.io.atomic import write_bytes

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
MAX_VOXELS = 2**30
_DEFLATE_LIMIT = 1040  # deflate never packs more than 1032 bytes into one
_HEADER_BYTES = 1024


@dataclass(frozen=True)
class Volume:
    """A 3D array with its affine (voxel index -> mm, RAS+) and what was assumed on reading it."""

    array: np.ndarray
    affine: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the array's axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z


def stem(path: str | Path) -> str:
    """A volume's file name without its suffix (`a/1000_T1.nii.gz` -> `1000_T1`)."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_volume(path: str | Path, channel: int | str | None = None) -> Volume:
    """Read one 3D volume, as stored (no reorientation), scaled by its header.

    Args:
        path: a `.nii`, `.nii.gz`, `.mgz` or `.mgh` file.
        channel: for 4D files, the index or name along the last axis.

    Returns:
        The volume: array float32 or its integer type, shape (X, Y, Z); affine float64 (4, 4).

    Raises:
        MedpairError: for a file that is missing, truncated, no volume, not 3D, without a usable
            geometry, or that holds NaN or infinity.
    """
    path = Path(path)
    _, affine = read_geometry(path)
    array = _one_channel(path, _voxels(path, _content(path)), channel)
    if array.dtype.kind not in "iufb":
        raise MedpairError(
            f"{path}: voxels of type {array.dtype}, wanted numbers; convert the file"
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise MedpairError(
                f"{path}: {bad} voxels are NaN or infinite, wanted none; replace them"
            )
    return Volume(array, affine, _warnings(path))


def read_geometry(path: str | Path) -> tuple[tuple[int, ...], np.ndarray]:
    """The shape and affine from a file's header, without its voxels.

    Args:
        path: as for `read_volume`.

    Returns:
        The shape as stored (3 or 4 axes) and the affine, float64 (4, 4).

    Raises:
        MedpairError: for a file that is missing, no volume, or without a usable geometry.
    """
    path = Path(path)
    head = _head(path)
    header = _header(path, head)
    shape = _checked_shape(path, header)
    return shape, _checked_affine(path, header)


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise MedpairError(f"{path}: no such file; correct the path")
    with path.open("rb") as file:
        raw = file.read(_HEADER_BYTES * 4)
    if raw[:2] != b"\x1f\x8b":
        return raw[:_HEADER_BYTES]
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, _HEADER_BYTES)
    except zlib.error as error:
        raise MedpairError(f"{path}: damaged gzip ({error}); copy the file again") from error


def _content(path: Path) -> bytes:
    header = _header(path, _head(path))
    shape = _checked_shape(path, header)
    raw = path.read_bytes()
    packed = raw[:2] == b"\x1f\x8b"
    wanted = math.prod(shape) * _item_bytes(path, header) + int(header.get_data_offset())
    if wanted > len(raw) * (_DEFLATE_LIMIT if packed else 1):
        raise MedpairError(
            f"{path}: the header promises {wanted} bytes (shape {shape}), the file has "
            f"{len(raw)}: truncated or a damaged header; copy the file again"
        )
    try:
        content = gzip.decompress(raw) if packed else raw
    except (EOFError, OSError, zlib.error) as error:
        raise MedpairError(
            f"{path}: truncated or damaged gzip ({error}); copy the file again"
        ) from error
    if len(content) < wanted:
        raise MedpairError(
            f"{path}: {len(content)} bytes, wanted at least {wanted} for shape {shape}: truncated; "
            "copy the file again"
        )
    return content


def _image_class(path: Path, head: bytes) -> Any:
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    if 348 in sizes and head[344:347] == b"n+1":
        return nib.Nifti1Image
    if 540 in sizes and head[4:7] == b"n+2":
        return nib.Nifti2Image
    if head[:4] == b"\x00\x00\x00\x01" and path.name.lower().endswith((".mgz", ".mgh")):
        return nib.MGHImage
    raise MedpairError(
        f"{path}: not a NIfTI or MGH volume; wanted a single .nii, .nii.gz or .mgz file, convert it"
    )


def _header(path: Path, head: bytes) -> Any:
    kind = _image_class(path, head)
    size = {nib.Nifti1Image: 348, nib.Nifti2Image: 540}.get(kind, 284)
    try:
        # MGH headers end with optional fields behind the voxels, so the plain header is padded
        return kind.header_class(head[:size].ljust(size, b"\0"), check=False)
    except Exception as error:  # nibabel raises many kinds; all mean an unreadable header
        raise _unreadable(path, error) from error


def _item_bytes(path: Path, header: Any) -> int:
    try:
        return int(header.get_data_dtype().itemsize)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _voxels(path: Path, content: bytes) -> np.ndarray:
    kind = _image_class(path, content[:_HEADER_BYTES])
    try:
        return np.asanyarray(kind.from_bytes(content).dataobj)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> MedpairError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return MedpairError(f"{path}: unreadable header ({reason}); convert or copy the file again")


def _checked_shape(path: Path, header: Any) -> tuple[int, ...]:
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise MedpairError(
            f"{path}: shape {shape}, wanted 3D of at least 2 voxels a side; give a volume"
        )
    if len(shape) > 4 and max(shape[4:]) > 1:
        raise MedpairError(
            f"{path}: shape {shape} has {len(shape)} axes, wanted 3 or 4; split the file"
        )
    if math.prod(shape[:3]) > MAX_VOXELS or min(shape) < 1:
        raise MedpairError(
            f"{path}: shape {shape}, wanted at most {MAX_VOXELS} voxels; the header is damaged, or "
            "resample the file first"
        )
    return shape[:4]


def _checked_affine(path: Path, header: Any) -> np.ndarray:
    widths = header["pixdim"][1:4] if "pixdim" in header else header["delta"]
    zooms = [float(width) for width in widths]
    if not all(math.isfinite(zoom) and zoom > 0 for zoom in zooms):
        raise MedpairError(f"{path}: voxel spacing {zooms} mm, wanted positive; repair the header")
    try:
        affine = header.get_best_affine() if "pixdim" in header else header.get_affine()
    except Exception as error:  # nibabel raises many kinds
        raise _unreadable(path, error) from error
    affine = np.asarray(affine, dtype=np.float64)
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(affine[:3, :3]))
        edges = np.prod(np.linalg.norm(affine[:3, :3], axis=0))
    if not (np.isfinite(affine).all() and volume > 1e-6 * edges > 0):
        raise MedpairError(
            f"{path}: the affine {affine[:3, :3].round(4).tolist()} is singular, wanted three "
            "independent axes; repair the header's sform or qform"
        )
    return affine


def channel_names(path: str | Path, count: int) -> tuple[str, ...]:
    """Names of a 4D file's channels, from the `dataset.json` of its data set where there is one.

    Args:
        path: the 4D file; `dataset.json` is looked for in its folder and the one above
            (Medical Segmentation Decathlon and nnU-Net write it there).
        count: number of channels.

    Returns:
        `count` names; the indices as text where nothing names them.
    """
    for folder in (Path(path).parent, Path(path).parent.parent):
        try:
            data = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
            names = data.get("modality") or data.get("channel_names")
            if len(names) == count:
                return tuple(str(names[str(i)]) for i in range(count))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return tuple(str(i) for i in range(count))


def _one_channel(path: Path, array: np.ndarray, channel: int | str | None) -> np.ndarray:
    space, count = array.shape[:3], math.prod(array.shape[3:])
    if count == 1:
        if channel not in (None, 0, "0"):
            raise MedpairError(f"{path}: a 3D file has no channel '{channel}'; leave --channel out")
        return array.reshape(space)
    names = channel_names(path, count)
    array = array.reshape(*space, count)
    listed = ", ".join(f"{i} ({n})" if n != str(i) else n for i, n in enumerate(names))
    if channel is None:
        raise MedpairError(f"{path}: 4D file, wanted 3D; choose one with --channel: {listed}")
    if str(channel) in names:
        return array[..., names.index(str(channel))]
    if str(channel).isdigit() and int(channel) < len(names):
        return array[..., int(channel)]
    raise MedpairError(f"{path}: no channel '{channel}'; choose one with --channel: {listed}")


def _warnings(path: Path) -> tuple[str, ...]:
    header = _header(path, _head(path))
    if "sform_code" in header and int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        return (f"{path.name}: no orientation in the header, assumed as stored by Analyze (LAS)",)
    return ()


def write_volume(path: str | Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI-1 volume atomically; equal input gives equal bytes.

    Args:
        path: `.nii` or `.nii.gz`.
        array: (X, Y, Z), any numeric type that NIfTI stores; written unscaled.
        affine: voxel index -> mm, (4, 4).

    Raises:
        MedpairError: for another suffix.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise MedpairError(f"{path}: cannot write '{path.suffix}'; name it .nii or .nii.gz")
    image = nib.Nifti1Image(np.asarray(array), np.asarray(affine, dtype=np.float64))
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=5, mtime=0)
    write_bytes(path, content)
