import hashlib
import json
from pathlib import Path

import pytest

from common.errors import MedpairError
from common.io.manifest import Manifest, sha256, versions


def test_lines_are_sorted_whatever_the_order_of_writing(tmp_path: Path) -> None:
    contents = []
    for order in (("b", "a", "c"), ("c", "b", "a")):
        manifest = Manifest(tmp_path / f"{'-'.join(order)}.jsonl")
        for identity in order:
            manifest.put({"id": identity, "n": 1})
        assert manifest.ids() == ("a", "b", "c")
        contents.append(manifest.path.read_bytes())
    assert contents[0] == contents[1]
    assert [json.loads(line)["id"] for line in contents[0].splitlines()] == ["a", "b", "c"]


def test_a_record_is_replaced_and_read_back(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "m.jsonl")
    manifest.put({"id": "a", "n": 1})
    manifest.put({"id": "a", "n": 2})
    again = Manifest(manifest.path)
    assert len(again) == 1
    assert again["a"]["n"] == 2
    assert "a" in again
    assert "b" not in again


@pytest.mark.parametrize(
    "text", ["not json\n", "[1]\n", '{"n": 1}\n', '{"id": "a"}\n{"id": "a"}\n']
)
def test_damaged_lines_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(text)
    with pytest.raises(MedpairError, match=r"manifest\.jsonl: .*(line|twice)"):
        Manifest(path)


def test_a_failed_write_keeps_memory_and_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest(tmp_path / "m.jsonl")
    manifest.put({"id": "a"})
    with pytest.raises(ValueError, match="JSON"):
        manifest.put({"id": "b", "x": float("inf")})
    assert manifest.ids() == Manifest(manifest.path).ids() == ("a",)


def test_hash_and_versions(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert versions("numpy", "no-such-distribution")["no-such-distribution"] == "none"
    assert versions("numpy")["numpy"][0].isdigit()
