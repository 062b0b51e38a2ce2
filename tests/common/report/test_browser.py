"""The page in a real browser: opened from disk, another pair chosen, the mask hidden."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.phantom import write_phantom_set
from common.report.page import write_report
from common.report.vendored import SCRIPT
from tests.browser import Page, browser, chromium

pytestmark = pytest.mark.optional_tool("chromium")
SHOWN = "document.getElementById('canvas').dataset.pair === '{}'"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return write_phantom_set(tmp_path_factory.mktemp("pairs") / "set", "brain4", (32, 32, 32), n=2)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    program = chromium()
    if program is None:
        pytest.skip("no chromium or google-chrome is installed")
    with browser(program, tmp_path / "profile") as opened:
        opened.size(1280, 900)
        yield opened


def canvas(page: Page) -> npt.NDArray[np.float64]:
    """Return the pixels of the viewer as they are on the screen, 0..255 (H, W, RGB)."""
    box = page.run("(r => [r.x, r.y, r.right, r.bottom])(canvas.getBoundingClientRect())")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    with Image.open(io.BytesIO(page.picture())) as shot:
        return np.asarray(shot.convert("RGB").crop(tuple(map(int, box))), dtype=np.float64)


def colourfulness(pixels: npt.NDArray[np.float64]) -> float:
    """Return the mean difference of the largest and the smallest channel; 0 for greys."""
    return float(np.ptp(pixels, axis=-1).mean())


def test_pairs_are_shown_from_disk(page: Page, pairs: PairSet) -> None:
    path = write_report(pairs.dir)
    page.open(path)
    page.wait(SHOWN.format(0))
    first = canvas(page)
    assert first.std() > 10, "the viewer is blank"
    assert colourfulness(first) > 1, "the mask is not shown"

    page.run("document.getElementById('next').click()")
    page.wait(SHOWN.format(1))
    second = canvas(page)
    assert np.abs(first - second).mean() > 0.5
    said = page.run("document.getElementById('facts').textContent")
    assert str(pairs.record(pairs.ids()[1])["seed"]) in said
    assert page.run("document.querySelectorAll('#volumes .dot').length") == 5

    page.run("document.getElementById('mask').click()")
    plain = canvas(page)
    assert colourfulness(plain) < colourfulness(second) / 2
    page.run("document.getElementById('mask').click()")
    assert np.abs(canvas(page) - second).mean() < 0.5
    page.run("opacity.value = 100; opacity.dispatchEvent(new Event('input')); opacity.value")
    assert colourfulness(canvas(page)) > colourfulness(second)

    assert page.faults() == []
    assert page.loaded() == [path.as_uri(), (path.parent / SCRIPT).as_uri()]


def test_fifty_pairs_are_readable_in_three_seconds(page: Page, tmp_path: Path) -> None:
    """The facts are; the first picture follows as soon as the graphics card, or its stand-in, can.

    Noise does not pack, so these previews have the sizes of far larger scans.
    """
    size = (56, 56, 56)
    label = np.zeros(size, np.uint8)
    label[8:-8, 8:-8, 8:-8] = 1
    pairs = PairSet.create(tmp_path / "set", load_schema("brain4"), (4, 4, 4), size, {})
    rng = np.random.default_rng(0)
    for n in range(50):
        pairs.write(Pair(f"p{n:02d}", rng.random(size, dtype=np.float32), label, np.eye(4)))
    path = write_report(pairs.dir)
    assert path.stat().st_size > 10_000_000
    began = time.monotonic()
    page.open(path)
    page.wait("document.getElementById('place').textContent === '1 of 50'")
    assert time.monotonic() - began < 3
    page.wait(SHOWN.format(0))


def test_it_fits_a_phone(page: Page, pairs: PairSet) -> None:
    page.size(390, 844)
    page.open(write_report(pairs.dir))
    page.wait(SHOWN.format(0))
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert canvas(page).std() > 10


def test_facts_stand_where_the_viewer_is_missing(
    page: Page, pairs: PairSet, tmp_path: Path
) -> None:
    path = write_report(pairs.dir, tmp_path / "alone")
    (path.parent / SCRIPT).unlink()
    page.open(path)
    page.wait(f"document.getElementById('message').textContent.includes('{SCRIPT} is missing')")
    assert pairs.ids()[0] in page.run("document.body.innerText")
    assert page.run("document.querySelectorAll('#facts dt').length") > 5
