from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.schedules import to_x0_eps
from common.errors import MedpairError
from mcdpm.diffusion import PrepareMaskBatch, TargetSliceLoss, network_input

PREDICTIONS = ("v", "eps", "x0", "logits")
B, S, H, W = 3, 6, 8, 6


def batch(known: Tensor, iteration: int = 4) -> dict[str, object]:
    generator = torch.Generator().manual_seed(iteration)
    label = torch.randint(0, 6, (B, S, H, W), generator=generator, dtype=torch.uint8)
    return {
        "label": label,
        "condition": label.clone(),
        "known": known,
        "position": torch.tensor([[0.1 * i, 0.02] for i in range(B)]),
        "iteration": iteration,
        "seed": 0,
    }


def some_known() -> Tensor:
    known = torch.zeros(B, S, dtype=torch.bool)
    known[0, :2] = True  # forward
    known[1, 3:] = True  # backward
    return known


def test_condition_slices_enter_clean_and_marked() -> None:
    x, condition, known = torch.randn(B, S, 5, H, W), torch.randn(B, S, 5, H, W), some_known()
    entered = network_input(x, condition, known)
    assert entered.shape == (B, S, 6, H, W)
    assert torch.equal(entered[:, :, :5][known], condition[known])
    assert torch.equal(entered[:, :, :5][~known], x[~known])
    assert torch.equal(entered[:, :, 5], known[:, :, None, None].expand(B, S, H, W).float())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_training_batch_holds_what_the_paper_says(prediction: str, make: Any) -> None:
    d, known = make.diffusion(prediction), some_known()
    content = batch(known)
    inputs, target, (t, position), extra = PrepareMaskBatch(d)(content)
    x_0 = d.codec.encode(content["label"])
    assert extra == {}
    assert torch.equal(position, content["position"])
    assert torch.equal(target[:, :, -1], (~known)[:, :, None, None].expand(B, S, H, W).float())
    assert torch.equal(inputs[:, :, :-1][known], x_0[known])  # no noise at all
    if prediction == "logits":
        assert torch.equal(target[:, :, 0].byte(), content["label"])
        return
    for row in range(B):  # the target at x_t gives back x_0, on target slices
        alpha, sigma = d.schedule.alpha_sigma(int(t[row]))
        free = ~known[row]
        estimate, eps = to_x0_eps(
            target[row, :, :-1], inputs[row, :, :-1], alpha, sigma, d.sampled_prediction
        )
        if alpha > 0.01:
            torch.testing.assert_close(estimate[free], x_0[row][free], atol=1e-3, rtol=1e-3)
        if sigma > 0.01:
            assert 0.9 < float(eps[free].std()) < 1.1


def test_condition_noise_touches_condition_slices_alone(make: Any) -> None:
    known = some_known()
    clean = PrepareMaskBatch(make.diffusion(condition_noise=0.0))(batch(known))[0]
    noisy = PrepareMaskBatch(make.diffusion(condition_noise=0.2))(batch(known))[0]
    assert torch.equal(clean[~known], noisy[~known])
    assert torch.equal(clean[:, :, -1], noisy[:, :, -1])
    change = (noisy - clean)[known][:, :-1]
    assert float(change.std()) == pytest.approx(0.2, rel=0.1)


def test_a_batch_depends_on_seed_and_iteration_alone(make: Any) -> None:
    prepare, content = PrepareMaskBatch(make.diffusion()), batch(some_known())
    first = prepare(content)
    torch.manual_seed(99)
    again = prepare(content)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for key in ("iteration", "seed"):
        other = prepare(content | {key: 17})
        assert not torch.equal(first[2][0], other[2][0])


@pytest.mark.parametrize("emphasis", [1.0, 2.0])
def test_time_steps_follow_the_emphasis(emphasis: float, make: Any) -> None:
    """With density ~ t^(k-1) the mean of t/T is k / (k + 1)."""
    d = make.diffusion(noise_emphasis=emphasis)
    t = d.draw_timesteps(20_000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert 0 <= int(t.min()) <= int(t.max()) == 999
    assert float(t.float().mean()) / 1000 == pytest.approx(emphasis / (emphasis + 1), abs=0.01)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_ignores_condition_slices(prediction: str, make: Any) -> None:
    d, known = make.diffusion(prediction), some_known()
    _, target, _, _ = PrepareMaskBatch(d)(batch(known))
    loss = TargetSliceLoss(d)
    output = torch.randn(B, S, 6, H, W)
    before = loss(output, target)
    changed_output, changed_target = output.clone(), target.clone()
    changed_output[known] += 3
    changed_target[:, :, :-1][known] = 2
    assert torch.equal(loss(changed_output, changed_target), before)
    free_output = output.clone()
    free_output[~known] += torch.randn_like(output[~known])
    assert not torch.isclose(loss(free_output, target), before)


def test_the_loss_is_the_mean_over_target_values(make: Any) -> None:
    known = some_known()
    target = torch.zeros(B, S, 7, H, W)
    target[:, :, -1] = (~known)[:, :, None, None]
    error = torch.full((B, S, 6, H, W), 2.0)
    assert float(TargetSliceLoss(make.diffusion("v"))(error, target)) == pytest.approx(4)
    nothing_to_do = target.clone()
    nothing_to_do[:, :, -1] = 0
    assert float(TargetSliceLoss(make.diffusion("v"))(error, nothing_to_do)) == 0


def test_cross_entropy_of_logits_is_that_of_the_class_probabilities(make: Any) -> None:
    d, known = make.diffusion("logits"), some_known()
    content = batch(known)
    _, target, _, _ = PrepareMaskBatch(d)(content)
    probability = torch.rand(B, S, 6, H, W).softmax(2)
    chosen = probability.gather(2, content["label"][:, :, None].long())[:, :, 0]
    wanted = -chosen.log()[~known].mean()
    loss = TargetSliceLoss(d)(probability.log() + 5, target)  # logits: a constant does not count
    torch.testing.assert_close(loss, wanted)


def test_logits_become_the_mean_of_the_code(make: Any) -> None:
    logits = torch.randn(2, 3, 6, 4, 4)
    d = make.diffusion("logits")
    codes = d.codec.encode(torch.arange(6, dtype=torch.uint8).view(6, 1, 1))[:, :, 0, 0]
    mean = torch.einsum("bskhw,kc->bschw", logits.softmax(2), codes)
    torch.testing.assert_close(d.estimate(logits), mean, atol=1e-5, rtol=1e-5)
    assert d.sampled_prediction == "x0"
    assert make.diffusion("v").estimate(logits) is logits
    assert make.diffusion("eps").sampled_prediction == "eps"


def test_a_prediction_that_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(MedpairError, match=r"'logits' with a label code of one channel; use"):
        make.diffusion("logits", "scalar")
    with pytest.raises(MedpairError, match=r"prediction: 'noise'; want"):
        PrepareMaskBatch(make.diffusion("noise"))(batch(some_known()))
