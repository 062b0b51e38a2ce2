"""The transforms that MONAI Label runs before and after the inferer of every bundle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage

from common.data.phantom import make_phantom
from common.data.views import from_dhw
from common.engines.studies import GridToStudy, StudyToGrid
from common.errors import MedpairError

SPACING, SIZE = (4.0, 4.0, 4.0), (48, 40, 40)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A scan, its mask, and both in one file, as LoadImaged gives them."""
    folder = tmp_path_factory.mktemp("studies")
    image, label = (from_dhw(array, "AP") for array in make_phantom("brain4", SIZE, 1))
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    arrays = {
        "scan": image * np.float32(500),
        "mask": label,
        "both": np.stack([image * np.float32(500), label], -1),
    }
    loaded = {}
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")  # wherever pydicom is
            volume = LoadImage(ensure_channel_first=True)(folder / f"{name}.nii.gz")
        loaded[name] = {"image": volume, "image_path": str(Path(folder) / name)}
    return loaded


def onto(reads: str) -> StudyToGrid:
    return StudyToGrid(reads, "brain4", SPACING, SIZE)


def test_a_scan_comes_in_0_to_1(studies: dict[str, dict[str, Any]]) -> None:
    item = onto("scan")(studies["scan"])
    image = item["image"]
    assert type(image) is torch.Tensor
    assert image.shape == (1, *SIZE)
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) < float(image.max()) == 1
    assert item["result"] == {"taken_as": "scan"}
    assert item["image_path"] == studies["scan"]["image_path"]


def test_a_mask_comes_in_schema_ids_and_goes_back(studies: dict[str, dict[str, Any]]) -> None:
    item = onto("mask")(studies["mask"])
    assert set(item["image"].unique().tolist()) == {0, 1, 2, 3, 4, 5}
    assert item["result"] == {"taken_as": "mask", "ids_of": "schema"}
    for kind, made in (
        ("labels", item["image"]),
        ("logits", torch.nn.functional.one_hot(item["image"][0].long(), 6).permute(3, 0, 1, 2)),
    ):
        back = GridToStudy(kind)({**item, "pred": made})["pred"]
        assert torch.equal(back, studies["mask"]["image"].as_tensor().byte())


def test_a_refined_scan_goes_back_to_its_scale(studies: dict[str, dict[str, Any]]) -> None:
    item = onto("refine")(studies["both"])
    assert item["image"].shape == (2, *SIZE)
    assert item["result"]["mask"] == "channel 2"
    assert -1 == float(item["image"][0].min()) < float(item["image"][0].max()) <= 1
    back = GridToStudy("image")({**item, "pred": item["image"][:1]})["pred"]
    scan = studies["scan"]["image"].as_tensor()
    inside = (scan > scan.quantile(0.01)) & (scan < scan[scan > 0].quantile(0.99))
    torch.testing.assert_close(back[inside], scan[inside], atol=1.0, rtol=0)
    alone = onto("refine")(studies["scan"])
    assert alone["image"].shape == (1, *SIZE)
    assert alone["result"]["mask"] == "none given: null mask"


def test_the_space_of_a_study_is_empty(studies: dict[str, dict[str, Any]]) -> None:
    item = onto("space")(studies["scan"])
    assert torch.equal(item["image"], torch.zeros(1, *SIZE))


def test_voxels_outside_of_the_grid_are_told(studies: dict[str, dict[str, Any]]) -> None:
    item = StudyToGrid("mask", "brain4", SPACING, (16, 16, 16))(studies["mask"])
    assert item["result"]["voxels_outside_the_grid"] > 1000


@pytest.mark.parametrize(
    ("reads", "study", "says"),
    [
        ("mask", "scan", "no integers"),
        ("scan", "both", "wanted a volume of 1 channel"),
        ("mask", "both", "wanted a volume of 1 channel"),
    ],
)
def test_the_wrong_study_is_one_line(
    studies: dict[str, dict[str, Any]], reads: str, study: str, says: str
) -> None:
    with pytest.raises(MedpairError, match=says) as caught:
        onto(reads)(studies[study])
    assert "\n" not in str(caught.value)


def test_numbers_that_are_none_are_refused(studies: dict[str, dict[str, Any]]) -> None:
    volume = studies["scan"]["image"].clone()
    volume[0, 3, 4, 5] = float("nan")
    with pytest.raises(MedpairError, match="1 voxels are NaN or infinite"):
        onto("scan")({"image": volume})


def test_a_name_in_place_of_a_volume_is_refused() -> None:
    with pytest.raises(MedpairError, match="study: str, wanted a loaded volume"):
        onto("scan")({"image": "case0"})


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(MedpairError, match="reads: 'video'"):
        onto("video")
    with pytest.raises(MedpairError, match="kind: 'text'"):
        GridToStudy("text")
