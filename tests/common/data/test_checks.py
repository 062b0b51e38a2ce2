from __future__ import annotations

import pytest
import torch

from common.data.checks import check_labels, whole_numbers
from common.errors import MedpairError


def test_whole_numbers_become_uint8() -> None:
    found = whole_numbers(torch.tensor([0.0, 5.0, 255.0]))
    assert found.dtype == torch.uint8
    assert found.tolist() == [0, 5, 255]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 1.5], r"value 1\.5, wanted whole numbers"),
        ([-1, 3], r"values -1\.\.3, wanted 0\.\.255"),
        ([0, 256], r"values 0\.\.256, wanted 0\.\.255"),
    ],
)
def test_other_numbers_are_refused(values: list[float], words: str) -> None:
    with pytest.raises(MedpairError, match=words):
        whole_numbers(torch.tensor(values))


def test_labels_of_another_schema_are_refused() -> None:
    check_labels(torch.tensor([0, 5]), 6)
    with pytest.raises(MedpairError, match=r"values 0\.\.6, wanted 0\.\.5; use weights of this"):
        check_labels(torch.tensor([0, 6]), 6)
