from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.labels import load_schema
from common.data.phantom import write_phantom_set
from common.data.pictures import (
    contact_sheet,
    grey,
    image_rows,
    label_planes,
    label_rows,
    save_rows,
    three_planes,
)
from common.data.views import to_dhw

R, A, S = 6, 7, 8


def load(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("axis", ["AP", "SI"])
def test_planes_are_axial_coronal_sagittal_with_the_top_up(axis: str) -> None:
    """Volumes that hold their own coordinates show where each picture's rows and columns point."""
    right, anterior, superior = (
        to_dhw(index, axis) for index in np.meshgrid(*map(np.arange, (R, A, S)), indexing="ij")
    )
    planes = [three_planes(volume, axis) for volume in (right, anterior, superior)]
    shapes = [plane.shape for plane in planes[0]]
    assert shapes == [(A, R), (S, R), (S, A)]
    for plane, (rows, columns) in enumerate([(1, 0), (2, 0), (2, 1)]):
        size = (R, A, S)[rows]
        assert (planes[rows][plane][:, 0] == np.arange(size)[::-1]).all()  # rows fall: top is up
        assert (planes[columns][plane][0] == np.arange((R, A, S)[columns])).all()
        (constant,) = {0, 1, 2} - {rows, columns}
        assert (planes[constant][plane] == (R, A, S)[constant] // 2).all()


def test_grey_levels_are_clipped_and_rounded() -> None:
    picture = grey(np.array([[-1.0, 0.0, 0.5, 1.0, 7.0]]))
    assert picture.shape == (1, 5, 3)
    assert picture[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert (picture == picture[..., :1]).all()


@pytest.mark.parametrize("name", ["brain4", "thorax7"])
def test_rows_show_slices_from_end_to_end_in_the_schemas_colours(name: str) -> None:
    schema = load_schema(name)
    label = np.zeros((10, 4, 5), dtype=np.uint8)
    label[:, -1] = np.arange(10)[:, None] % schema.num_classes  # the top row tells the slice
    (row,) = label_rows(label, schema, slices=4)
    assert len(row) == 4 + 3
    seen = [picture[0, 0].tolist() for picture in row[:4]]
    assert seen == [schema.palette[z % schema.num_classes].tolist() for z in (2, 4, 5, 7)]
    assert all((a == b).all() for a, b in zip(row[4:], label_planes(label, schema), strict=True))
    (images,) = image_rows(label.astype(np.float32), schema, slices=4)
    assert [p.shape for p in images] == [p.shape for p in row]


def test_a_sheet_keeps_every_pixel_where_it_belongs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [[(3, 4), (5, 2)], [(2, 2)]]
    rows = [[rng.integers(1, 255, (*s, 3), dtype=np.uint8) for s in row] for row in sizes]
    save_rows(rows, tmp_path / "new" / "sheet.png", scale=2, gap=1)
    sheet = load(tmp_path / "new" / "sheet.png")
    assert sheet.shape == ((2 * 5 + 1) + (2 * 2 + 1), (2 * 4 + 1) + (2 * 2 + 1), 3)
    for picture, (top, left) in zip(
        [p for row in rows for p in row], [(0, 0), (0, 9), (11, 0)], strict=True
    ):
        h, w = picture.shape[:2]
        assert (sheet[top : top + 2 * h : 2, left : left + 2 * w : 2] == picture).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_small_pictures_are_enlarged_unasked(tmp_path: Path) -> None:
    save_rows([[np.zeros((12, 12, 3), np.uint8)]], tmp_path / "small.png", gap=0)
    save_rows([[np.zeros((300, 300, 3), np.uint8)]], tmp_path / "large.png", gap=0)
    assert load(tmp_path / "small.png").shape == (120, 120, 3)
    assert load(tmp_path / "large.png").shape == (300, 300, 3)


def test_the_contact_sheet_has_two_rows_per_pair(tmp_path: Path) -> None:
    pairset = write_phantom_set(tmp_path / "set", "brain4", (16, 20, 24), 3)
    contact_sheet(pairset, tmp_path / "all.png")
    contact_sheet(pairset, tmp_path / "one.png", most=1)
    everything, one = load(tmp_path / "all.png"), load(tmp_path / "one.png")
    assert everything.shape == (3 * len(one), *one.shape[1:])
    upper, lower = np.split(one, 2)
    assert len(np.unique(upper.reshape(-1, 3), axis=0)) <= 6  # the palette
    assert (lower[..., 0] == lower[..., 1]).all()  # grey
