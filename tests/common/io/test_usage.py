import numpy as np

from common.io.usage import Usage


def test_seconds_and_peak_memory_cover_the_work() -> None:
    usage = Usage()
    before = usage.measured()
    block = np.ones(300 * 2**20, dtype=np.uint8)
    del block
    after = usage.measured()
    assert after["seconds"] >= before["seconds"] >= 0
    assert after["peak_memory_gb"] - before["peak_memory_gb"] > 0.25  # freed, but it was the peak
