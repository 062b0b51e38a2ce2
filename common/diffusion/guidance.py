"""Classifier-free guidance with one or several conditions, as a wrapper around a network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.errors import MedpairError

Denoiser = Callable[[Tensor, Tensor], Tensor]
Condition = Tensor | Sequence[Tensor]


def classifier_free(
    network: Callable[..., Tensor],
    cond: dict[str, Condition],
    null: dict[str, Condition],
    scales: dict[str, float],
    interval: tuple[int, int] | None = None,
) -> "Guided":
    """Bind a network to its conditions and guide it.

    With conditions c_1..c_k in the order of `scales`, and f_j the output that sees c_1..c_j only,

        f = f_0 + s_1 (f_1 - f_0) + ... + s_k (f_k - f_(k-1)) = sum_j (s_j - s_(j+1)) f_j

    where s_0 = 1 and s_(k+1) = 0. Passes of weight zero never run: scale 1 needs the conditional
    pass alone, scale 0 the unconditional one, one scale for all conditions two passes. The
    passes run as one batch. The weights sum to 1, so eps, x_0 and v are guided alike.

    Args:
        network: called as network(x_t, t, **cond); x_t (B, ...), t (B,).
        cond: conditions by name, each a (B, ...) tensor or a sequence of such. Those without a
            scale are given to every pass.
        null: for each name in `scales` what stands for "no condition"; broadcasts to cond[name].
        scales: guidance scale per name; 1 is plain conditional sampling.
        interval: (lowest, highest) timestep with guidance; outside, the conditional pass runs
            alone. Where given, t is read back once per call (a wait, on an accelerator).

    Returns:
        A denoiser (x_t, t) -> output of the network's own prediction type.

    Raises:
        MedpairError: if a scaled condition lacks its value or its null.

    Source: Ho and Salimans (2207.12598), eq. 6; several conditions: Brooks et al. (2211.09800),
    eq. 3; interval: Kynkaanniemi et al. (2404.07724), eq. 5.
    """
    _check(cond, null, scales, interval)
    return Guided(network, cond, null, scales, interval)


class Guided:
    """A guided denoiser, see `classifier_free`; `passes` leaves the sum over the passes to others.

    Args: as there.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        cond: dict[str, Condition],
        null: dict[str, Condition],
        scales: dict[str, float],
        interval: tuple[int, int] | None,
    ) -> None:
        self._network, self._cond, self._interval = network, cond, interval
        weights = _weights(list(scales.values()))
        self._plain = list(weights) == [len(scales)]
        self._weights = tuple(weights.values())
        self._batched = _batched_conditions(cond, null, list(scales), list(weights))

    def passes(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """Return the outputs (P * B, ...) of all passes and their weights.

        Args:
            x_t: (B, ...) state.
            t: (B,) timesteps.
        """
        interval = self._interval
        if self._plain or (interval is not None and not interval[0] <= int(t[0]) <= interval[1]):
            return self._network(x_t, t, **self._cond), (1.0,)
        count = len(self._weights)
        output = self._network(torch.cat([x_t] * count), t.repeat(count), **self._batched)
        return output, self._weights

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the guided output (B, ...). Args as for `passes`."""
        output, weights = self.passes(x_t, t)
        if weights == (1.0,):
            return output
        parts = zip(weights, output.chunk(len(weights)), strict=True)
        return torch.stack([weight * part for weight, part in parts]).sum(0)


def _weights(scales: list[float]) -> dict[int, float]:
    """The passes that count: number of conditions seen -> weight."""
    steps = [1.0, *scales, 0.0]
    weights = {j: steps[j] - steps[j + 1] for j in range(len(steps) - 1)}
    return {j: weight for j, weight in weights.items() if weight != 0}


def _batched_conditions(
    cond: dict[str, Condition], null: dict[str, Condition], names: list[str], passes: list[int]
) -> dict[str, Condition]:
    """Every condition for all passes, one after the other along the batch."""
    if len(passes) == 1 and passes[0] == len(names):
        return cond
    rank = {name: i for i, name in enumerate(names)}

    def joined(name: str, value: Tensor, absent: Tensor | None) -> Tensor:
        seen = [rank.get(name, -1) < count for count in passes]
        nothing = value if absent is None else absent.to(value).expand_as(value)
        return torch.cat([value if present else nothing for present in seen])

    batched: dict[str, Condition] = {}
    for name, value in cond.items():
        absent = null.get(name)
        if isinstance(value, Tensor):
            assert absent is None or isinstance(absent, Tensor)
            batched[name] = joined(name, value, absent)
        else:
            nothings = [None] * len(value) if absent is None else list(absent)
            pairs = zip(value, nothings, strict=True)
            batched[name] = [joined(name, v, n) for v, n in pairs]
    return batched


def _check(
    cond: dict[str, Condition],
    null: dict[str, Condition],
    scales: dict[str, float],
    interval: tuple[int, int] | None,
) -> None:
    for key, values in (("cond", cond), ("null", null)):
        missing = sorted(scales.keys() - values.keys())
        if missing:
            raise MedpairError(f"{key}: lacks {missing}; want every name in scales; add its tensor")
    if interval is not None and interval[0] > interval[1]:
        raise MedpairError(f"interval: {interval}; want (lowest, highest) timestep; swap the two")
