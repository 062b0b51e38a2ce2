from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from common.data.datasets import PairSet, load_arrays
from common.data.labels import LabelSchema, load_schema, schema_names
from common.data.phantom import make_phantom, phantom_seeds, phantom_spacing, write_phantom_set
from common.data.support import fill_holes
from common.data.views import from_dhw
from common.errors import MedpairError

SIZE = (32, 32, 32)


def middle(mask: np.ndarray, axis: str) -> np.ndarray:
    """Centre of mass in R, A, S."""
    return np.array(ndimage.center_of_mass(from_dhw(mask, axis)))


@pytest.mark.parametrize("name", schema_names())
@pytest.mark.parametrize("size", [(16, 16, 16), SIZE, (48, 40, 40), (24, 36, 40)])
def test_every_label_is_there(name: str, size: tuple[int, int, int]) -> None:
    schema = load_schema(name)
    for seed in range(3):
        image, label = make_phantom(schema, size, seed)
        assert image.shape == label.shape == size
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert np.isfinite(image).all()
        assert set(np.unique(label)) == set(range(schema.num_classes))


@pytest.mark.parametrize("name", schema_names())
def test_anatomy_varies_with_the_seed_only(name: str) -> None:
    first, again, other = (make_phantom(name, SIZE, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).mean() > 0.01


@pytest.mark.parametrize("name", ["brain4", "thorax7", "abdomen4"])
def test_the_same_anatomy_at_every_size(name: str) -> None:
    schema = load_schema(name)
    coarse, fine = (make_phantom(schema, (n, n, n), 1)[1] for n in (32, 64))
    shares = [np.bincount(x.ravel(), minlength=schema.num_classes) / x.size for x in (coarse, fine)]
    big = shares[1] > 0.01
    np.testing.assert_allclose(shares[0][big], shares[1][big], rtol=0.2)


def test_brain_tissues_are_ordered_and_stripped() -> None:
    schema = load_schema("brain4")
    for seed in range(4):
        image, label = make_phantom(schema, (48, 40, 40), seed)
        medians = {n: np.median(image[label == schema.id_of(n)]) for n in schema.names}
        assert medians["csf"] < medians["cortex"] < medians["white_matter"]
        np.testing.assert_array_equal(fill_holes(image != 0), fill_holes(label > 0))
        volumes = np.bincount(label.ravel())[1:5]
        assert volumes[0] > volumes[2] > volumes[1] > volumes[3] > 0


def test_thorax_sides_sizes_and_parts() -> None:
    schema = load_schema("thorax7")
    for seed in range(4):
        image, label = make_phantom(schema, SIZE, seed)
        masks = {
            label.name: label_mask
            for label, label_mask in ((entry, label == entry.id) for entry in schema.labels)
        }
        places = {name: middle(mask, "SI") for name, mask in masks.items()}
        assert places["left_lung"][0] < places["heart"][0] < places["right_lung"][0]
        assert places["heart"][0] < places["spinal_cord"][0]  # to the left
        assert places["spinal_cord"][1] < places["esophagus"][1] < places["trachea"][1]
        volumes = {name: int(mask.sum()) for name, mask in masks.items()}
        assert volumes["right_lung"] > volumes["left_lung"] > volumes["heart"]
        assert volumes["heart"] > max(volumes[n] for n in ("spinal_cord", "esophagus", "trachea"))
        for entry in schema.labels:
            assert ndimage.label(masks[entry.name], np.ones((3, 3, 3)))[1] == 1, entry.name
        assert np.median(image[masks["left_lung"]]) < 0.2 < np.median(image[masks["heart"]])


def test_abdomen_sides_and_two_kidneys() -> None:
    schema = load_schema("abdomen4")
    for seed in range(4):
        _, label = make_phantom(schema, (48, 48, 48), seed)
        liver, spleen = (middle(label == schema.id_of(n), "SI") for n in ("liver", "spleen"))
        assert spleen[0] < 24 < liver[0]
        assert ndimage.label(label == schema.id_of("kidney"))[1] == 2
        assert np.bincount(label.ravel())[1:5].argmax() == 0


def test_tumour_core_lies_in_its_rim_in_oedema() -> None:
    schema = load_schema("brats3")
    for seed in range(4):
        _, label = make_phantom(schema, SIZE, seed)
        core, rim, edema = (
            label == schema.id_of(n) for n in ("non_enhancing", "enhancing", "edema")
        )
        assert not (ndimage.binary_dilation(core) & ~core & ~rim).any()
        np.testing.assert_array_equal(fill_holes(rim), rim | core)
        whole = rim | core | edema
        assert ndimage.label(whole)[1] == 1
        assert whole.sum() < (label == schema.container_id).sum()


def test_noise_and_bias() -> None:
    """Inside one tissue the image varies from voxel to voxel and slowly across the brain."""
    schema = load_schema("brain4")
    image, label = make_phantom(schema, (48, 40, 40), 0)
    white = ndimage.binary_erosion(label == schema.id_of("white_matter"), iterations=2)
    smooth = ndimage.gaussian_filter(image, 2.0)
    assert 0.01 < (image - smooth)[white].std() < 0.06
    assert np.ptp(smooth[white]) > 0.02


def own_schema(count: int) -> LabelSchema:
    labels = [{"name": f"o{i}", "id": i, "colour": [i, 0, 0]} for i in range(1, count + 1)]
    data = {"name": "own", "modality": "MR", "slice_axis": "SI", "labels": labels}
    return LabelSchema.from_dict(data)


@pytest.mark.parametrize("count", [1, 9])
def test_a_users_schema_gets_a_phantom(count: int) -> None:
    _, label = make_phantom(own_schema(count), SIZE, 0)
    assert set(np.unique(label)) == set(range(count + 1))


def test_datasets_in_memory() -> None:
    training = load_arrays("phantom:thorax7:24x32x32:5", "training")
    validation = load_arrays("phantom:thorax7:24x32x32:5", "validation")
    assert (len(training.ids), len(validation.ids)) == (5, 1)
    assert not set(training.ids) & set(validation.ids)
    assert training.images[0].shape == (24, 32, 32)
    assert training.schema.name == "thorax7"
    assert training.spacing == phantom_spacing(training.schema, (24, 32, 32))
    assert len(load_arrays("phantom:lesion1:16x16x16:1", None).ids) == 2


@pytest.mark.parametrize(
    "text",
    ["phantom:brain4:48x40", "phantom:brain4:48x40x40:0", "phantom:brain4:a", "phantom:b:8:1:2"],
)
def test_wrong_phantom_names(text: str) -> None:
    with pytest.raises(MedpairError, match="wanted phantom:<schema>"):
        load_arrays(text)


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="at least 16"):
        make_phantom("brain4", (8, 32, 32), 0)
    with pytest.raises(MedpairError, match="seed: -1"):
        make_phantom("brain4", SIZE, -1)
    with pytest.raises(MedpairError, match="split 'test'"):
        phantom_seeds(4, "test")
    with pytest.raises(MedpairError, match="n: 0"):
        write_phantom_set(tmp_path / "p", "brain4", SIZE, 0)
    assert not (tmp_path / "p").exists()


def test_a_phantom_set_is_a_pair_set(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    made = write_phantom_set(
        tmp_path / "p", "brain4", (24, 20, 20), 5, 3, progress=lambda *a: seen.append(a)
    )
    assert seen[-1] == ("phantom", 5, 5)
    pairset = PairSet.open(made.dir)
    assert len(pairset.ids("training")) == 4
    pair = pairset.read("phantom-0004")
    np.testing.assert_array_equal(pair.label, make_phantom("brain4", (24, 20, 20), 4)[1])
    assert pairset.spacing == (8.0, 8.0, 8.0)
    np.testing.assert_allclose(np.abs(np.diag(pair.affine)), [8, 8, 8, 1])
