"""Bundles as zip files that run where medpair is not installed."""

from __future__ import annotations

import ast
import hashlib
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

import common
from common.bundles import bundles, bundles_dir
from common.errors import MedpairError
from common.io.atomic import atomic_path, write_text

VENDORED = "_common"
REQUIRED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.yaml",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
)
FOLDERS = ("configs", "docs", "models", "presets", "mask_augmentation")
FILES = ("LICENSE", "large_files.yml")
LEFT_OUT = ("eval", "__pycache__")  # what runs and Python write
LARGE = 25 * 2**20
SUMS = "SHA256SUMS"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say
OURS = re.compile(r"(?<![\w.])common(?=\.[a-z_])")


@dataclass(frozen=True)
class Bundle:
    """A bundle folder and the package in it.

    Args:
        root: the folder.
        package: name of the stage package, the one subfolder with an ``__init__.py``.
    """

    root: Path
    package: str

    @classmethod
    def open(cls, root: Path) -> Bundle:
        """Look at a bundle folder.

        Raises:
            MedpairError: where a file is missing, foreign, or too large to be unlisted.
        """
        missing = [path for path in REQUIRED if not (root / path).is_file()]
        if missing:
            raise MedpairError(f"{root}: {missing[0]} is missing; a bundle needs it")
        packages = sorted(path.parent.name for path in root.glob("*/__init__.py"))
        if len(packages) != 1:
            found = ", ".join(packages) or "none"
            raise MedpairError(f"{root}: packages {found}, wanted one; move the others away")
        bundle = cls(root, packages[0])
        bundle._check()
        return bundle

    def _check(self) -> None:
        known = {*FOLDERS, *FILES, *LEFT_OUT, self.package}
        foreign = sorted(
            path.name
            for path in self.root.iterdir()
            if path.name not in known and not path.name.startswith(".")
        )
        if foreign:
            raise MedpairError(f"{self.root}: {foreign[0]} is no part of a bundle; move it away")
        listed = self.large_files()
        for path in self.files():
            if path.stat().st_size > LARGE and str(path.relative_to(self.root)) not in listed:
                raise MedpairError(f"{path}: over 25 MB; list it in large_files.yml, with sha256")

    def large_files(self) -> set[str]:
        """Return the paths in ``large_files.yml``, which are downloaded and not packed."""
        path = self.root / "large_files.yml"
        if not path.is_file():
            return set()
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(entry["path"]) for entry in content["large_files"]}

    def files(self) -> Iterator[Path]:
        """Yield all files that belong to the bundle, in order."""
        yield from (self.root / name for name in FILES if (self.root / name).is_file())
        for folder in (*FOLDERS, self.package):
            for path in sorted((self.root / folder).rglob("*")):
                parts = path.relative_to(self.root).parts
                left_out = any(part in LEFT_OUT or part.startswith(".") for part in parts)
                if path.is_file() and not left_out:
                    yield path


def pack(name: str, out: str | Path) -> list[Path]:
    """Write bundles as zip files that need no installed medpair.

    Each holds the bundle and, as ``<package>._common``, the modules of `common` that it uses, with
    imports and ``_target_`` rewritten, and the SHA-256 of every file. Equal sources give equal
    bytes.

    Args:
        name: a bundle, or "all".
        out: gets ``<bundle>_v<version>.zip`` and ``SHA256SUMS`` of the zip files.

    Returns:
        The zip files.

    Raises:
        MedpairError: for an unknown bundle, or one with missing or foreign files; nothing is
            written then.
    """
    known = bundles()
    if name != "all" and name not in known:
        raise MedpairError(f"bundle: found '{name}', wanted one of {', '.join(known)} or all")
    chosen = known if name == "all" else (name,)
    contents = {one: content(Bundle.open(bundles_dir() / one)) for one in chosen}
    written = []
    for one, files in contents.items():
        path = Path(out) / f"{one}_v{common.__version__}.zip"
        with atomic_path(path) as temporary:
            _write_zip(temporary, {f"{one}/{inner}": data for inner, data in files.items()})
        written.append(path)
    write_text(Path(out) / SUMS, _sums({path.name: path.read_bytes() for path in written}))
    return written


def content(bundle: Bundle) -> dict[str, bytes]:
    """Return what a packed bundle consists of, bytes by path."""
    large = bundle.large_files()
    found = {}
    for path in bundle.files():
        inner = path.relative_to(bundle.root).as_posix()
        if inner not in large:
            found[inner] = _rewritten(path, bundle.package)
    home = Path(common.__file__).parent
    for path in used_modules(bundle):
        inner = path.relative_to(home).as_posix()
        found[f"{bundle.package}/{VENDORED}/{inner}"] = _rewritten(path, bundle.package)
    found = dict(sorted(found.items()))
    found[SUMS] = _sums(found).encode()
    return found


def used_modules(bundle: Bundle) -> list[Path]:
    """Return the files of `common` that a bundle's Python and configs lead to."""
    home = Path(common.__file__).parent
    waiting: set[str] = set()
    for path in bundle.files():
        if path.suffix == ".py":
            waiting |= _imported(path)
        elif path.suffix == ".yaml":
            waiting |= set(re.findall(r"(?<![\w.])common(?:\.\w+)+", path.read_text("utf-8")))
    found: dict[Path, None] = {}
    while waiting:
        for path in _files_of(waiting.pop(), home):
            if path not in found:
                found[path] = None
                waiting |= _imported(path)
    if home / "data" / "labels.py" in found:
        found |= dict.fromkeys(sorted((home / "data" / "schemas").glob("*.yaml")))
    return sorted(found)


def _imported(path: Path) -> set[str]:
    """Return the dotted names below `common` that a Python file imports, wherever it does."""
    names = set()
    for node in _imports(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            names |= {alias.name for alias in node.names}
    return names


def _imports(source: str) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            yield node
        if isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            yield node


def _is_ours(module: str) -> bool:
    return module == "common" or module.startswith("common.")


def _files_of(name: str, home: Path) -> Iterator[Path]:
    """Yield the file of the longest module that a dotted name begins with, and its packages'."""
    yield home / "__init__.py"
    place = home
    for part in name.split(".")[1:]:
        if (place / part / "__init__.py").is_file():
            place = place / part
            yield place / "__init__.py"
        else:
            if (place / f"{part}.py").is_file():
                yield place / f"{part}.py"
            return


def _rewritten(path: Path, package: str) -> bytes:
    """Return a file with its references to `common` led to the vendored copy."""
    data = path.read_bytes()
    if path.suffix == ".py":
        return _rewrite_imports(data.decode("utf-8"), package).encode()
    if path.suffix == ".yaml":
        return OURS.sub(f"{package}.{VENDORED}", data.decode("utf-8")).encode()
    return data


def _rewrite_imports(source: str, package: str) -> str:
    lines = source.splitlines(keepends=True)
    for node in _imports(source):
        row = node.lineno - 1
        if isinstance(node, ast.ImportFrom):
            new = f"from {package}.{VENDORED}"
            lines[row] = re.sub(r"\bfrom common\b", new, lines[row], count=1)
        elif [alias.name for alias in node.names] == ["common"]:
            new = f"from {package} import {VENDORED} as common"
            lines[row] = lines[row].replace("import common", new, 1)
        else:
            raise MedpairError(f"import in line {node.lineno}: write 'from common... import ...'")
    return "".join(lines)


def _sums(files: dict[str, bytes]) -> str:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())


def _write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
