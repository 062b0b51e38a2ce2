import numpy as np
import pytest
import torch

from common.data.views import (
    from_dhw,
    from_slices,
    to_dhw,
    to_slices,
    triple_to_dhw,
    triple_to_ras,
    view_names,
)
from common.errors import MedpairError

SHAPES = {"AP": (3, 4, 2), "SI": (4, 3, 2)}  # of R, A, S = 2, 3, 4


@pytest.mark.parametrize("axis", SHAPES)
@pytest.mark.parametrize("lead", [(), (5,), (5, 6)])
def test_there_and_back(axis: str, lead: tuple[int, ...]) -> None:
    array = np.arange(np.prod(lead, dtype=int) * 24).reshape(*lead, 2, 3, 4)
    dhw = to_dhw(array, axis)
    assert dhw.shape == (*lead, *SHAPES[axis])
    assert np.shares_memory(dhw, array)
    np.testing.assert_array_equal(from_dhw(dhw, axis), array)
    tensor = to_dhw(torch.from_numpy(array), axis)
    np.testing.assert_array_equal(tensor.numpy(), dhw)
    np.testing.assert_array_equal(from_dhw(tensor, axis).numpy(), array)


def test_slices_run_along_the_named_axis() -> None:
    right, anterior, superior = np.meshgrid(range(2), range(3), range(4), indexing="ij")
    np.testing.assert_array_equal(to_dhw(anterior, "AP")[2], np.full((4, 2), 2))
    np.testing.assert_array_equal(to_dhw(superior, "SI")[3], np.full((3, 2), 3))
    np.testing.assert_array_equal(to_dhw(right, "AP")[0, 0], [0, 1])


@pytest.mark.parametrize("axis", SHAPES)
def test_triples_follow_shapes(axis: str) -> None:
    assert triple_to_dhw((2, 3, 4), axis) == to_dhw(np.zeros((2, 3, 4)), axis).shape
    assert triple_to_ras(SHAPES[axis], axis) == (2, 3, 4)


def test_base_preset_of_the_brain() -> None:
    assert triple_to_ras((192, 160, 160), "AP") == (160, 192, 160)


def test_errors() -> None:
    with pytest.raises(MedpairError, match="slice_axis: 'LR'"):
        to_dhw(np.zeros((2, 2, 2)), "LR")
    with pytest.raises(MedpairError, match="2 axes"):
        from_dhw(np.zeros((2, 2)), "AP")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_view_and_back_are_inverse(axis: int) -> None:
    volume = torch.randn(2, 3, 4, 5, 6)
    slices = to_slices(volume, axis)
    assert slices.shape[1] == volume.shape[2 + axis]
    assert torch.equal(slices[1, 2], volume[1].select(1 + axis, 2))
    assert torch.equal(from_slices(slices, axis), volume)


def test_planes_are_normal_to_the_axes() -> None:
    assert view_names("AP") == ("coronal", "axial", "sagittal")
    assert view_names("SI") == ("axial", "coronal", "sagittal")
