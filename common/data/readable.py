"""Pair sets of which some files may be damaged: what can be read, and what is wrong."""

from collections.abc import Iterable

from common.data.checks import check_pair
from common.data.datasets import Pair, PairSet
from common.errors import MedpairError
from common.io.manifest import sha256


def read_pairs(pairs: PairSet, ids: Iterable[str]) -> tuple[list[Pair], dict[str, str]]:
    """Read the pairs whose files are those that were written, and name the others.

    Args:
        pairs: the pair set.
        ids: which of its pairs.

    Returns:
        The pairs, and by id one line for each that is damaged, missing or changed.
    """
    good: list[Pair] = []
    bad: dict[str, str] = {}
    for identity in ids:
        try:
            good.append(read_checked(pairs, identity))
        except MedpairError as error:
            bad[identity] = " ".join(str(error).split())
        except OSError as error:
            bad[identity] = f"{error.filename}: {error.strerror}"
    return good, bad


def read_checked(pairs: PairSet, identity: str) -> Pair:
    """Read a pair and compare its files with the manifest.

    Args:
        pairs: the pair set.
        identity: the pair's id.

    Raises:
        MedpairError: for files that are damaged, missing, or not those of the manifest, or a pair
            that does not fit the set.
    """
    pair = pairs.read(identity)
    check_pair(pair, pairs.schema, pairs.size)
    record = pairs.record(identity)
    for kind, path in zip(("image", "label"), pairs.paths(identity), strict=True):
        wanted = record.get(f"{kind}_sha256")
        if wanted is not None and sha256(path) != wanted:
            raise MedpairError(
                f"{path}: sha256 differs from manifest.jsonl; copy the file again or make the pair "
                "again"
            )
    return pair
