from itertools import islice

import pytest
import torch
from torch import Tensor

from common.data.augment import WarpRanges
from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.engines.batches import IterationBatches, iteration_generator
from common.errors import MedpairError
from mcdpm.batches import AugmentedVolumes, Modes, WindowBatches, disturb_borders

M = 6


def numbered(depth: int = 20) -> Tensor:
    """A mask whose slices tell their index."""
    return torch.arange(depth, dtype=torch.uint8)[:, None, None].expand(depth, 4, 5).contiguous()


def volumes(*labels: Tensor, num_classes: int = 30, **kw: object) -> AugmentedVolumes:
    settings = {"flip_lut": None, "num_classes": num_classes, "copies": 0} | kw
    return AugmentedVolumes(labels, **settings)  # type: ignore[arg-type]


def draw_modes(modes: Modes, count: int = 4000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([modes.draw(M, generator) for _ in range(count)])


def test_modes_come_as_often_as_asked_with_conditions_at_their_ends() -> None:
    known = draw_modes(Modes(forward=0.5, backward=0.3, unconditional=0.2))
    forward, backward, none = known[:, 0], known[:, -1], ~known.any(1)
    assert not (forward & backward).any()  # so at least one slice is left to generate
    for mode, share in ((forward, 0.5), (backward, 0.3), (none, 0.2)):
        assert float(mode.float().mean()) == pytest.approx(share, abs=0.03)
    assert bool((forward | backward | none).all())
    assert bool((known[forward].int().diff(dim=1) <= 0).all())  # one block at the start
    assert bool((known[backward].int().diff(dim=1) >= 0).all())  # one block at the end


def test_the_number_of_condition_slices_is_drawn_from_1_to_m_minus_1_or_fixed() -> None:
    drawn = draw_modes(Modes()).sum(1)
    counts = torch.bincount(drawn[drawn > 0], minlength=M + 1)
    assert counts[0] == counts[M] == 0
    assert counts[1:M].min() > 0.8 * counts[1:M].float().mean()
    fixed = draw_modes(Modes(condition_slices=2), 200).sum(1)
    assert set(fixed.tolist()) == {0, 2}


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.5, -0.5, 0.0), (0.2, 0.2, 0.2)])
def test_shares_that_are_no_probabilities_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(MedpairError, match=r"p_F, p_B, p_U are .*correct the config"):
        Modes(*shares)


@pytest.mark.parametrize("n", [-1, 0, 6, 7])
def test_condition_slices_that_leave_nothing_to_generate_are_refused(n: int) -> None:
    with pytest.raises(MedpairError, match=rf"condition_slices {n}, wanted .*1\.\.window-1"):
        WindowBatches(volumes(numbered()), M, 2, Modes(condition_slices=n))


def test_shallow_masks_are_refused() -> None:
    with pytest.raises(MedpairError, match=r"has 5 slices, wanted at least window=6; prepare"):
        WindowBatches(volumes(numbered(20), numbered(5)), M, 2)
    with pytest.raises(MedpairError, match=r"window is 1 .*wanted window >= 2"):
        WindowBatches(volumes(numbered()), 1, 2)


def test_a_batch_holds_neighbouring_slices_and_their_place() -> None:
    draw = WindowBatches(volumes(numbered(20), numbered(12)), M, 40, boundary_noise=0.0)
    batch = draw(torch.Generator().manual_seed(0))
    assert batch["label"].shape == batch["condition"].shape == (40, M, 4, 5)
    assert batch["known"].shape == (40, M)
    assert torch.equal(batch["label"], batch["condition"])
    first = batch["label"][:, 0, 0, 0].float()
    assert torch.equal(batch["label"][:, :, 0, 0].float(), first[:, None] + torch.arange(M))
    depth = 1 / batch["position"][:, 1]
    assert set(depth.round().int().tolist()) == {12, 20}
    torch.testing.assert_close(batch["position"][:, 0] * depth, first)


def test_every_window_is_drawn_also_the_first_and_the_last() -> None:
    draw = WindowBatches(volumes(numbered(9)), M, 200)
    starts = draw(torch.Generator().manual_seed(0))["label"][:, 0, 0, 0]
    assert set(starts.tolist()) == {0, 1, 2, 3}


def test_batches_are_the_same_in_a_run_started_again() -> None:
    def stream(skip: int) -> list[dict[str, Tensor]]:
        label = torch.from_numpy(make_phantom("brain4", (16, 16, 16), 0)[1])
        source = volumes(label, num_classes=6, copies=3, seed=1)  # copies are made on first use
        batches = IterationBatches(WindowBatches(source, M, 3), seed=1, epoch_length=4)
        batches.iteration = skip
        return list(islice(batches, 5 - skip))

    for left, right in zip(stream(0)[3:], stream(3), strict=True):
        assert all(torch.equal(left[k], right[k]) for k in ("label", "condition", "known"))


def test_condition_borders_are_disturbed_as_often_as_asked_and_labels_never() -> None:
    label = torch.from_numpy(make_phantom("brain4", (16, 24, 24), 0)[1])
    source = volumes(label, num_classes=6)
    modes = Modes(0.5, 0.5, 0.0)
    batch = WindowBatches(source, M, 200, modes, 0.3)(torch.Generator().manual_seed(0))
    disturbed = (batch["label"] != batch["condition"]).flatten(1).any(1)
    assert float(disturbed.float().mean()) == pytest.approx(0.3, abs=0.1)
    assert all(any(torch.equal(row, label[z : z + M]) for z in range(11)) for row in batch["label"])


def test_disturbed_borders_move_by_a_pixel_at_most() -> None:
    label = torch.zeros(100, 16, 16, dtype=torch.uint8)
    label[:, 4:12, 4:12] = 5
    moved = disturb_borders(label, 6, torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8
    assert not torch.equal(moved, label)
    assert set(moved.unique().tolist()) == {0, 5}
    assert not moved[:, :3].any()
    assert not moved[:, 13:].any()
    assert (moved[:, 5:11, 5:11] == 5).all()


def test_a_mirrored_mask_swaps_left_and_right_labels() -> None:
    """In the thorax the left lung stays on its side: the picture is flipped and renamed."""
    schema = load_schema("thorax7")
    label = torch.from_numpy(make_phantom(schema, (16, 24, 24), 0)[1])
    lut = torch.from_numpy(schema.flip_lut.copy())
    left, right = schema.id_of("left_lung"), schema.id_of("right_lung")
    source = volumes(label, flip_lut=lut, num_classes=schema.num_classes)
    generator = torch.Generator().manual_seed(0)
    drawn = [source.draw(generator) for _ in range(60)]
    mirrored = [d for d in drawn if not torch.equal(d, label)]
    assert 15 < len(mirrored) < 45

    def place(mask: Tensor) -> float:
        return float(mask.nonzero()[:, 2].float().mean())

    for volume in mirrored:
        assert volume.dtype == torch.uint8
        assert (place(volume == left) < place(volume == right)) == (
            place(label == left) < place(label == right)
        )
        assert torch.equal(volume == left, (label == right).flip(-1))
        assert torch.equal(lut[volume.flip(-1).long()], label)  # twice is once


def test_copies_are_deformed_once_each_and_depend_on_the_seed() -> None:
    label = torch.from_numpy(make_phantom("brain4", (16, 16, 16), 0)[1])

    def draws(seed: int) -> list[Tensor]:
        source = volumes(label, num_classes=6, copies=4, ranges=WarpRanges(), seed=seed)
        return [source.draw(iteration_generator(0, i)) for i in range(40)]

    one, again, other = draws(0), draws(0), draws(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({x.numpy().tobytes() for x in one}) == 4
    assert set(torch.stack(one).unique().tolist()) <= set(label.unique().tolist())
