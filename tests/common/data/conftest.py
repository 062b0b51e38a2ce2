import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is tested with the atomic writer; here it only costs time."""
    monkeypatch.setattr("common.io.atomic.os.fsync", lambda descriptor: None)
