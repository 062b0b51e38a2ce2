"""The 3D Pix2Pix baseline: its data, network, losses, trainer and inference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.data.slice_augment import AugmentRanges
from common.engines.batches import IterationBatches, iteration_generator
from common.engines.handlers import WarmupCosine
from common.errors import MedpairError
from gem3d.baseline_data import PatchBatches, slice_distance, spread_slice
from gem3d.pix2pix import (
    Pix2PixGenerator,
    Pix2PixInferer,
    Pix2PixLoss,
    Pix2PixTrainer,
    check_size,
    discriminator_of,
)
from gem3d.volumes import Volumes

K = 3
LUT = torch.arange(K)
SIZE = (6, 10, 10)


def small(*, informed: bool = False, **changes: Any) -> Pix2PixGenerator:
    torch.manual_seed(0)
    options = {"channels": (4, 8), "strides": (2,), "num_res_units": 0} | changes
    return Pix2PixGenerator(K, informed, **options)


def placed(size: tuple[int, int, int] = SIZE) -> Tensor:
    """A volume whose voxels tell where they are, (-1, 1)."""
    return (torch.arange(size[0] * size[1] * size[2]).view(size) + 0.5) / 500 - 1


def place(value: Tensor, size: tuple[int, int, int] = SIZE) -> list[int]:
    number = round(float((value + 1) * 500 - 0.5))
    return [int(n) for n in torch.unravel_index(torch.tensor(number), size)]


def volumes(*images: Tensor) -> Volumes:
    labels = [(image > 0).to(torch.uint8) for image in images]
    return Volumes(images, labels, LUT, K, ranges=AugmentRanges())


def batch(data: PatchBatches, number: int = 0) -> dict[str, Tensor]:
    return data(iteration_generator(0, number))


def test_distance_is_signed_and_in_depths() -> None:
    spread = spread_slice(torch.ones(2, 3, 3), slice_distance(1, 4))
    assert spread.shape == (3, 4, 3, 3)
    assert torch.equal(spread[2, :, 0, 0], torch.tensor([-0.25, 0.0, 0.25, 0.5]))
    assert bool((spread[:2] == 1).all())


@pytest.mark.parametrize("patch", [None, (4, 6, 8)])
def test_a_patch_knows_its_slice_and_how_far_it_is(patch: tuple[int, int, int] | None) -> None:
    data = PatchBatches(volumes(placed()), 3, patch)
    seen = set()
    for number in range(8):
        drawn = batch(data, number)
        size = patch or SIZE
        assert drawn["image"].shape == (3, 1, *size)
        assert drawn["label"].shape == (3, *size)
        for image, label, informed in zip(*drawn.values(), strict=True):
            first = place(image[0, 0, 0, 0])
            assert torch.equal(label, (image[0] > 0).to(torch.uint8))
            index, *corner = place(informed[0, 0, 0, 0])
            assert corner == first[1:]
            expected = (torch.arange(size[0]) + first[0] - index) / SIZE[0]
            assert torch.equal(informed[1, :, 0, 0], expected)
            seen.add(index)
    assert seen == set(range(SIZE[0]))


def test_scans_smaller_than_a_patch_get_background() -> None:
    drawn = batch(PatchBatches(volumes(placed() * 0 + 0.5), 1, (8, 10, 12)))
    assert drawn["image"].shape == (1, 1, 8, 10, 12)
    assert bool(
        (drawn["image"][..., 10:] == -1).all() and (drawn["image"][..., 6:, :, :] == -1).all()
    )
    assert bool(
        (drawn["label"][..., 10:] == 0).all() and (drawn["label"][:, :6, :, :10] == 1).all()
    )
    assert bool((drawn["informed"][:, 0, :, :, 10:] == -1).all())


def test_whole_scans_of_two_sizes_do_not_make_a_batch() -> None:
    data = PatchBatches(volumes(placed(), placed()[:4]), 8)
    with pytest.raises(MedpairError, match=r"a batch of 8 whole volumes of \(4, 10, 10\)"):
        batch(data)


@settings(deadline=None, max_examples=12)
@given(st.tuples(*[st.integers(3, 11)] * 3))
def test_the_network_takes_any_size(size: tuple[int, int, int]) -> None:
    network = small(channels=(4, 4, 4), strides=(1, 2)).eval()
    image = network(torch.randn(2, K, *size))
    assert image.shape == (2, 1, *size)
    assert float(image.detach().abs().max()) <= 1


@torch.no_grad()
def test_a_fresh_network_starts_near_air_where_the_tanh_can_learn() -> None:
    condition = small().condition(torch.randint(K, (2, *SIZE)), None)
    image = small()(condition)
    assert -0.995 < image.median() < -0.9


def test_a_volume_of_one_stride_is_too_small() -> None:
    with pytest.raises(MedpairError, match=r"of 2x2x1; want an axis longer than .* stride 2"):
        small()(torch.zeros(1, K, 2, 2, 1))


def test_the_slice_matters_only_to_an_informed_network() -> None:
    mask = torch.randint(0, K, (1, 1, *SIZE), dtype=torch.uint8)
    one, other = torch.zeros(1, 10, 10), torch.rand(1, 10, 10)
    for informed in (False, True):
        network = small(informed=informed).eval()
        made = [Pix2PixInferer()(mask, network, s, torch.tensor([2])) for s in (one, other)]
        moved = Pix2PixInferer()(mask, network, one, torch.tensor([4]))
        assert torch.equal(*made) is not informed
        assert torch.equal(made[0], moved) is not informed


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_the_discriminator_cannot_judge_is_refused_and_no_more(layers: int) -> None:
    judge = discriminator_of(small(), 2, layers)
    smallest = 3 * 2**layers
    fits = torch.zeros(1, K + 1, smallest, smallest, smallest)
    check_size(fits, judge)
    assert judge(fits)[-1].numel() == 1
    with pytest.raises(MedpairError, match=f"want {smallest} or more"):
        check_size(fits[:, :, 1:], judge)


class Voxelwise(nn.Conv3d):
    """A network without neighbourhood: patches and whole volumes give the same."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 1)


@pytest.mark.parametrize("patch", [(4, 6, 8), (8, 6, 12)])
def test_patches_blend_to_the_whole(patch: tuple[int, int, int]) -> None:
    network = small(informed=True).eval()
    network.unet = Voxelwise(network.condition_channels)
    mask = torch.randint(0, K, (2, 1, *SIZE), dtype=torch.uint8)
    seen, index = torch.rand(2, 10, 10), torch.tensor([1, 4])
    with torch.no_grad():
        whole = Pix2PixInferer()(mask, network, seen, index)
        patched = Pix2PixInferer(patch, overlap=0.4)(mask, network, seen, index)
    assert whole.shape == patched.shape == (2, 1, *SIZE)
    torch.testing.assert_close(patched, whole, atol=1e-5, rtol=0)


def test_a_volume_does_not_change_with_its_neighbours() -> None:
    network = small(informed=True).eval()
    mask = torch.randint(0, K, (3, 1, *SIZE), dtype=torch.uint8)
    seen, index = torch.rand(3, 10, 10), torch.tensor([1, 4, 0])
    with torch.no_grad():
        together = Pix2PixInferer()(mask, network, seen, index)
        alone = Pix2PixInferer()(mask[1:2], network, seen[1:2], index[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("value", "message"), [(K, "values 0..3, wanted 0..2"), (0.5, "0.5")])
def test_labels_outside_the_schema_are_refused(value: float, message: str) -> None:
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 0] = value
    with pytest.raises(MedpairError, match=message):
        Pix2PixInferer()(mask, small(), torch.zeros(1, 10, 10), torch.tensor([0]))


def test_the_loss_is_l1_and_least_squares() -> None:
    loss = Pix2PixLoss(l1=100.0, adversarial=0.5, adversarial_start=3)
    image, made = torch.zeros(1, 1, 2, 2, 2), torch.full((1, 1, 2, 2, 2), 0.25)
    logits = torch.tensor([[0.5, -1.0]])
    terms = loss.generator(image, (made,), logits)
    assert float(terms["loss"]) == pytest.approx(100 * 0.25 + 0.5 * (0.25 + 4) / 2)
    assert float(loss.generator(image, (made,), None)["loss"]) == pytest.approx(25)
    assert float(loss.discriminator(logits, 1 - logits)) == pytest.approx((0.25 + 1) / 2)
    assert [loss.judges(i) for i in (2, 3)] == [False, True]


def shaded(shade: float) -> Tensor:
    """A cube whose brightness nothing but its own slices tells."""
    image = torch.full((8, 8, 8), -1.0)
    image[:, 2:6, 2:6] = shade
    return image


def fit(*, informed: bool, iterations: int) -> tuple[float, float]:
    """Train on cubes of random brightness; return the mean error before and after."""
    images = [shaded(shade) for shade in torch.linspace(-0.6, 0.9, 6).tolist()]
    labels = [(image > -1).to(torch.uint8) for image in images]
    data = PatchBatches(Volumes(images, labels, LUT, K), 4)
    network = small(informed=informed, channels=(8, 16), strides=(2,))
    discriminator = discriminator_of(network, 4, 1)
    first = [p.detach().clone() for p in discriminator.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), 0.02, betas=(0.5, 0.999))
    # the judge kicks the generator; small last steps keep the error from hanging on the last kick
    decay = WarmupCosine(optimizer, iterations, warmup=1)
    trainer = Pix2PixTrainer(
        "cpu",
        1,
        IterationBatches(data, 0, iterations),
        network,
        optimizer,
        discriminator,
        torch.optim.Adam(discriminator.parameters(), 0.002, betas=(0.5, 0.999)),
        Pix2PixLoss(),
        precision="fp32",
    )
    decay.attach(trainer)

    def error() -> float:
        drawn = data(iteration_generator(7, 0))
        with torch.no_grad():
            made = network.eval()(network.condition(drawn["label"], drawn["informed"]))
        return float((made - drawn["image"]).abs().mean())

    before = error()
    trainer.run()
    assert {"l1", "adversarial", "loss", "d_loss"} == set(trainer.state.output)
    assert any(not torch.equal(*p) for p in zip(first, discriminator.parameters(), strict=True))
    return before, error()


def test_training_lowers_the_error_and_the_slice_tells_what_the_mask_cannot() -> None:
    before, after = fit(informed=True, iterations=120)
    _, blind = fit(informed=False, iterations=120)
    assert after < 0.2 * before
    assert after < 0.6 * blind
