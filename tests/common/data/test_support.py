import numpy as np

from common.data.labels import load_schema
from common.data.support import add_container, ct_body, fill_holes, largest_component


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    axes = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2


def test_holes_and_components() -> None:
    shell = ball((20, 20, 20), (9, 9, 9), 8) & ~ball((20, 20, 20), (9, 9, 9), 4)
    filled = fill_holes(shell)
    np.testing.assert_array_equal(filled, ball((20, 20, 20), (9, 9, 9), 8))
    open_shell = shell.copy()
    open_shell[9, 9, 9:] = False
    np.testing.assert_array_equal(fill_holes(open_shell), open_shell)
    two = ball((20, 20, 20), (5, 5, 5), 4) | ball((20, 20, 20), (15, 15, 15), 3)
    np.testing.assert_array_equal(largest_component(two), ball((20, 20, 20), (5, 5, 5), 4))
    assert not largest_component(np.zeros((3, 3, 3), bool)).any()


def test_a_stripped_brain_fills_its_dark_voxels() -> None:
    schema = load_schema("brain4")
    image = np.where(ball((16, 16, 16), (8, 8, 8), 7), 100, 0)
    image[8, 8, 8] = 0  # a ventricle voxel that is exactly 0
    label = np.zeros((16, 16, 16), np.uint8)
    label[6, 8, 8] = schema.id_of("cortex")
    out = add_container(label, image, schema, "neuromorphometrics")
    assert out[6, 8, 8] == schema.id_of("cortex")
    assert out[8, 8, 8] == schema.container_id
    np.testing.assert_array_equal(out > 0, ball((16, 16, 16), (8, 8, 8), 7))


def test_freesurfer_maps_ignore_the_head_around_the_brain() -> None:
    schema = load_schema("brain4")
    shell = ball((20, 20, 20), (10, 10, 10), 6) & ~ball((20, 20, 20), (10, 10, 10), 3)
    label = np.where(shell, np.uint8(schema.id_of("cortex")), np.uint8(0))
    head = np.full(label.shape, 50.0)
    for image in (head, None):
        out = add_container(label, image, schema, "freesurfer")
        np.testing.assert_array_equal(out > 0, ball((20, 20, 20), (10, 10, 10), 6))


def test_a_container_that_is_there_is_kept() -> None:
    schema = load_schema("lesion1")
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:4] = schema.container_id
    out = add_container(label, np.ones((8, 8, 8)), schema, "schema")
    np.testing.assert_array_equal(out, label)


def test_the_body_keeps_open_lungs_and_drops_the_table() -> None:
    shape = (40, 40, 12)
    hu = np.full(shape, -1000.0)
    trunk = np.broadcast_to(ball((40, 40), (20, 22), 13)[..., None], shape)
    lung = np.broadcast_to(ball((40, 40), (20, 24), 6)[..., None], shape)  # cut above and below
    hu[trunk], hu[lung] = 40, -800
    hu[5:35, 3:5] = 100  # a table
    body = ct_body(hu)
    assert body[lung].all()
    assert not body[:, :6].any()
    assert np.mean(body == trunk) > 0.98
