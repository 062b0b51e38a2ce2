from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.errors import MedpairError
from vid2vid.generator import SliceOutput
from vid2vid.losses import (
    AdversarialTerms,
    GeneratorLoss,
    LossWeights,
    feature_matching,
    motion_terms,
)
from vid2vid.rollout import real_previous, rollout
from vid2vid.sequences import SequenceBatch, SequenceDataset


def judged(value: float) -> dict[str, list[list[Tensor]]]:
    return {"image": [[torch.full((1, 2, 3, 3), value), torch.full((1, 1, 2, 2), value)]] * 2}


def batch_of(make_dataset: Callable[..., SequenceDataset]) -> SequenceBatch:
    return make_dataset(first_slice=0.5).batch(0, torch.Generator().manual_seed(2))


def output_for(batch: SequenceBatch, flow: float = 0.0) -> SliceOutput:
    image = batch.image
    size = (*image.shape[:2], 2, *image.shape[-2:])
    return SliceOutput(image, image, torch.full(size, flow), torch.ones_like(image))


def test_least_squares_terms() -> None:
    terms = AdversarialTerms()
    assert terms.generator(judged(1.0)) == 0
    assert terms.generator(judged(0.0)) == 1
    assert terms.discriminator(judged(0.0), judged(1.0)) == 0
    assert terms.discriminator(judged(1.0), judged(0.0)) == 1
    assert terms.discriminator(judged(0.5), judged(0.5)) == 0.25


def test_feature_matching_leaves_the_logits_out_and_the_real_ones_alone() -> None:
    fake, real = judged(0.5), judged(0.0)
    for scale in (*fake["image"], *real["image"]):
        scale[0].requires_grad_()
        scale[-1] += 100
    loss = feature_matching(fake, real)
    loss.backward()
    assert loss == 0.5
    assert fake["image"][0][0].grad is not None
    assert real["image"][0][0].grad is None


def test_the_warp_term_compares_real_neighbours(
    make_dataset: Callable[..., SequenceDataset],
) -> None:
    batch = batch_of(make_dataset)
    previous, known = real_previous(batch)
    assert torch.equal(previous[:, 1:], batch.image[:, :-1])
    assert torch.equal(known[:, 0], batch.has_past[:, 0])
    terms = motion_terms(output_for(batch), batch)
    difference = (previous - batch.image).abs().mean(dim=(2, 3, 4))
    assert torch.allclose(terms["warp"], difference[known].mean(), atol=1e-5)
    assert terms["smooth"] == 0


def test_the_total_is_the_weighted_sum(make_dataset: Callable[..., SequenceDataset]) -> None:
    batch = batch_of(make_dataset)
    flow = torch.full((*batch.image.shape[:2], 2, 12, 8), 2.0)
    batch = replace(batch, flow=flow, flow_weight=torch.ones_like(batch.image))
    weights = LossWeights(1, 2, 3, 4, 5, 6, 7)
    terms = GeneratorLoss(weights, max_flow=4.0)(output_for(batch), batch, judged(0.0), judged(1.0))
    total = terms.pop("g_loss")
    assert terms["flow"] == 0.5
    assert torch.allclose(
        total, torch.stack([getattr(weights, k) * v for k, v in terms.items()]).sum()
    )
    assert set(terms) == {
        "l1",
        "l1_raw",
        "warp",
        "smooth",
        "adversarial",
        "feature_matching",
        "flow",
    }


def test_without_judges_no_judgement_is_needed(
    make_dataset: Callable[..., SequenceDataset],
) -> None:
    batch = batch_of(make_dataset)
    loss = GeneratorLoss(LossWeights(adversarial=0, feature_matching=0))
    assert not loss.judges
    assert loss(output_for(batch), batch, {}, {})["l1"] == 0


def test_a_perceptual_term_wants_a_file(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="perceptual_weights is None; want a file"):
        GeneratorLoss(LossWeights(perceptual=1.0))
    with pytest.raises(MedpairError, match=r"nothing\.pt"):
        GeneratorLoss(LossWeights(perceptual=1.0), perceptual_weights=str(tmp_path / "nothing.pt"))


@pytest.mark.parametrize("backprop", [1, 2])
def test_gradients_flow_through_as_many_slices_as_asked(
    make_dataset: Callable[..., SequenceDataset],
    make_generator: Callable[..., torch.nn.Module],
    backprop: int,
) -> None:
    batch = batch_of(make_dataset)
    past = batch.past.clone().requires_grad_()
    out = rollout(
        make_generator(), replace(batch, past=past, has_past=batch.has_past | True), backprop
    )
    gradient = torch.autograd.grad(out.image[:, 1].sum(), past, retain_graph=True)[0]
    # slice 1 reads past[0] as its second image; past[1] only by way of slice 0
    assert bool(gradient[:, 1].any()) == (backprop > 1)


def test_a_rollout_feeds_generated_slices_back(
    make_dataset: Callable[..., SequenceDataset], make_generator: Callable[..., torch.nn.Module]
) -> None:
    batch, network = batch_of(make_dataset), make_generator()
    out = rollout(network, batch)
    has = torch.stack([torch.ones_like(batch.has_past[:, 0]), batch.has_past[:, 0]], dim=1)
    past = torch.stack([out.image[:, 0], batch.past[:, 0]], dim=1)
    second = network(batch.label[:, 1:6], past, has, batch.position[:, 1])
    assert torch.allclose(out.image[:, 1], second.image, atol=1e-6)
