import json
from pathlib import Path

import pytest

from common.io.atomic import append_jsonl, atomic_path, write_bytes, write_json, write_text


def half_write(final: Path, error: BaseException) -> None:
    with atomic_path(final) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_file_appears_whole_with_its_suffix(tmp_path: Path) -> None:
    final = tmp_path / "new" / "a.nii.gz"
    with atomic_path(final) as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == final.parent
        temporary.write_bytes(b"content")
        assert not final.exists()
    assert final.read_bytes() == b"content"
    assert [p.name for p in final.parent.iterdir()] == ["a.nii.gz"]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        half_write(tmp_path / "a.txt", RuntimeError())
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_names_no_file_is_given_the_final_name(tmp_path: Path) -> None:
    for named, wanted in ((None, tmp_path / "a.txt"), ("b.txt", "b.txt")):
        error = OSError(28, "No space left on device")
        error.filename = named
        with pytest.raises(OSError, match="No space") as caught:
            half_write(tmp_path / "a.txt", error)
        assert caught.value.filename == str(wanted)


def test_a_failure_keeps_the_former_file(tmp_path: Path) -> None:
    final = tmp_path / "a.txt"
    write_text(final, "before")
    with pytest.raises(KeyboardInterrupt):
        half_write(final, KeyboardInterrupt())
    assert final.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failing_rename_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_nan_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_lines_append_and_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    append_jsonl(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"torn": ')
    append_jsonl(path, {"b": 2})
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"a": 1}
    assert json.loads(lines[2]) == {"b": 2}
