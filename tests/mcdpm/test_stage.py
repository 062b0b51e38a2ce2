from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.phantom import make_phantom
from common.data.resize import resize_labels
from common.diffusion.windows import plan_windows
from common.errors import MedpairError
from mcdpm.stage import MaskStage

DEPTH, SIZE = 20, (8, 6)
BRAIN = load_schema("brain4")


def batch(count: int = 2, **changes: Any) -> PairBatch:
    spacing, size = (4.0, 4.0, 4.0), (DEPTH, *SIZE)
    whole = PairBatch(tuple(range(count)), 5, BRAIN, spacing, size)
    return replace(whole, **changes)


@pytest.fixture
def make_stage(make: Any) -> Callable[..., MaskStage]:
    def stage(label: Tensor, **settings: Any) -> MaskStage:
        diffusion = make.diffusion()
        sampler = make.sampler(diffusion, num_steps=1, size=tuple(label.shape[1:]))
        options = {"schema": "brain4", "clean": False} | settings
        return MaskStage(make.oracle(label, diffusion), sampler, **options)

    return stage


def test_labels_and_starts_are_filled_in(make_stage: Callable[..., MaskStage], make: Any) -> None:
    mask = make.label(DEPTH)
    done = make_stage(mask)(batch())
    assert done.label_VDHW is not None
    assert done.label_VDHW.dtype == torch.uint8
    assert torch.equal(done.label_VDHW, mask.expand(2, -1, -1, -1))
    assert done.start is not None
    assert done.image_VDHW is None
    stage = make_stage(mask)
    given = stage(batch(start=(0, DEPTH - 1)))
    assert given.start == (0, DEPTH - 1)
    plans = [
        plan_windows(DEPTH, stage.sampler.window, stage.sampler.overlap, s) for s in given.start
    ]
    assert given.joints == tuple(plan.joints for plan in plans)
    assert torch.equal(given.label_VDHW, done.label_VDHW)


def test_masks_are_brought_to_the_size_asked_for(
    make_stage: Callable[..., MaskStage], make: Any
) -> None:
    mask = torch.from_numpy(make_phantom(BRAIN, (DEPTH, 24, 24), 0)[1])
    done = make_stage(mask)(batch(size=(DEPTH, 36, 30)))
    wanted = resize_labels(mask, (36, 30), 6)
    assert (done.label_VDHW == wanted).float().mean() > 0.99


def test_clean_up_follows_the_schema(make_stage: Callable[..., MaskStage]) -> None:
    """A speck of cortex in the air is taken away, the rest of a sound mask stays."""
    sound = torch.from_numpy(make_phantom(BRAIN, (DEPTH, 24, 24), 0)[1])
    speckled = sound.clone()
    speckled[0, 0, 0] = 1
    request = batch(1, size=(DEPTH, 24, 24))
    raw, clean = (make_stage(speckled, clean=c)(request).label_VDHW for c in (False, True))
    assert torch.equal(raw[0], speckled)
    assert clean[0, 0, 0, 0] == 0
    assert (clean[0] == sound).float().mean() > 0.98


def test_random_starts_are_a_volumes_own_and_fill_the_depth(
    make_stage: Callable[..., MaskStage], make: Any
) -> None:
    stage = make_stage(make.label(DEPTH))
    many = stage._starts(batch(3000))
    assert min(many) == 0
    assert max(many) == DEPTH - 6  # the last place of a window
    counts = torch.bincount(torch.tensor(many))
    assert counts.min() > 0.7 * counts.float().mean()
    one = stage._starts(batch(volumes=(17,)))
    assert one == (many[17],)
    assert stage._starts(batch(3000, seed=6)) != many
    assert stage._starts(batch(3000, seed=5 + 2**32)) != many
    assert set(stage._starts(batch(50, size=(4, *SIZE)))) == {0}  # shallower than a window


def test_the_start_may_be_the_middle(make_stage: Callable[..., MaskStage], make: Any) -> None:
    done = make_stage(make.label(DEPTH), start="middle")(batch())
    assert done.start == (7, 7)  # slices 7..12 of 0..19


def test_another_schema_and_starts_outside_are_refused(
    make_stage: Callable[..., MaskStage], make: Any
) -> None:
    stage = make_stage(make.label(DEPTH))
    with pytest.raises(MedpairError, match=r"schema 'thorax7', its weights are for 'brain4'; use"):
        stage(batch(schema=load_schema("thorax7")))
    with pytest.raises(MedpairError, match=r"start: 20; want 0\.\.19"):
        stage(batch(start=(0, DEPTH)))
