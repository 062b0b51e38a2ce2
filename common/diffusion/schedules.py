"""Noise schedules, what a network predicts, and subsets of the timesteps.

A schedule gives x_t = alpha_t x_0 + sigma_t eps. Variance preserving schedules
(`NoiseSchedule`) count t = 0..T-1 and call the clean end t = -1; the straight path of
rectified flow (`FlowSchedule`) counts t = 0 (clean) .. T (pure noise), as MONAI does.
Tables and coefficients are float64; only the product with a state takes the state's type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, overload

import torch
from torch import Tensor

from common.errors import MedpairError

Prediction = Literal["eps", "x0", "v", "flow"]
Spacing = Literal["trailing", "leading"]


class Schedule(Protocol):
    """Anything that says how much signal and noise a timestep holds."""

    @property
    def T(self) -> int: ...  # noqa: N802, D102 - the papers' name

    @overload
    def alpha_sigma(self, t: int) -> tuple[float, float]: ...
    @overload
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A variance preserving schedule: alpha_t^2 = alpha_bar_t, sigma_t^2 = 1 - alpha_bar_t.

    Args:
        alpha_bar: (T,) cumulative signal power, strictly falling, in [0, 1]; kept as float64.

    Raises:
        MedpairError: if the table is not one-dimensional, leaves [0, 1] or does not fall.

    Source: Ho et al., DDPM (arXiv 2006.11239), eq. 4.
    """

    alpha_bar: Tensor
    _tables: dict[torch.device, Tensor] = field(init=False, repr=False, default_factory=dict)
    _levels: tuple[tuple[float, float], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        abar = self.alpha_bar.detach().to("cpu", torch.float64)
        if abar.ndim != 1 or not len(abar) or not bool(((abar >= 0) & (abar <= 1)).all()):
            raise MedpairError(
                f"alpha_bar: shape {tuple(abar.shape)}; want (T,) with values in [0, 1]; "
                "check beta_start, beta_end and num_train_timesteps"
            )
        if not bool((abar.diff() < 0).all()):
            raise MedpairError("alpha_bar: rises or stays; want a falling table; check the betas")
        clean_first = torch.cat([abar.new_ones(1), abar])
        table = torch.stack([clean_first.sqrt(), (1 - clean_first).sqrt()])
        object.__setattr__(self, "alpha_bar", abar)
        object.__setattr__(self, "_levels", tuple(zip(*table.tolist(), strict=True)))
        self._tables[table.device] = table

    @property
    def T(self) -> int:  # noqa: N802
        """The number of training timesteps."""
        return len(self.alpha_bar)

    @overload
    def alpha_sigma(self, t: int) -> tuple[float, float]: ...
    @overload
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def alpha_sigma(self, t: int | Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Signal and noise amplitude at t.

        Args:
            t: timestep in -1..T-1 (-1 is the clean end), or a LongTensor of such, any shape.

        Returns:
            (alpha, sigma): floats for an int; float64 tensors of t's shape and device otherwise.

        Raises:
            MedpairError: if an int t lies outside -1..T-1.
        """
        if isinstance(t, Tensor):
            alpha, sigma = self._table(t.device)
            index = t.reshape(-1) + 1  # index_select refuses negative rows, plain indexing wraps
            pair = (alpha.index_select(0, index), sigma.index_select(0, index))
            return pair[0].reshape(t.shape), pair[1].reshape(t.shape)
        if not -1 <= t < self.T:
            raise MedpairError(f"t: {t}; want -1..{self.T - 1}; use timesteps of this schedule")
        return self._levels[t + 1]

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:  # one copy per device, not one per training step
            self._tables[device] = next(iter(self._tables.values())).to(device)
        return self._tables[device]


@dataclass(frozen=True)
class FlowSchedule:
    """The straight path x_t = (1 - t/T) x_0 + (t/T) eps, t in [0, T].

    Args:
        T: the timestep of pure noise, >= 1.

    Source: Liu et al., Rectified Flow (arXiv 2209.03003), eq. 1, in MONAI's convention.
    """

    T: int = 1000

    @overload
    def alpha_sigma(self, t: int) -> tuple[float, float]: ...
    @overload
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def alpha_sigma(self, t: int | Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Signal and noise amplitude (1 - t/T, t/T).

        Args:
            t: timestep in 0..T (0 is clean), or a tensor of such (fractions are welcome).

        Returns:
            (alpha, sigma): floats for an int, float64 tensors of t's shape otherwise.

        Raises:
            MedpairError: if an int t lies outside 0..T.
        """
        if isinstance(t, Tensor):
            sigma = t.to(torch.float64) / self.T
            return 1 - sigma, sigma
        if not 0 <= t <= self.T:
            raise MedpairError(f"t: {t}; want 0..{self.T}; use select_flow_timesteps")
        return 1 - t / self.T, t / self.T


def from_betas(beta: Tensor) -> NoiseSchedule:
    """The schedule of the per-step noise powers beta, (T,) in (0, 1). Source: 2006.11239, eq. 4."""
    return NoiseSchedule(torch.cumprod(1 - beta.to(torch.float64), 0))


def linear(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Betas on a straight line. Source: DDPM (2006.11239), section 4."""
    return from_betas(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


def scaled_linear(
    T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> NoiseSchedule:
    """Square roots of the betas on a straight line. Source: latent diffusion (2112.10752)."""
    root = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64)
    return from_betas(root**2)


def cosine(T: int = 1000, s: float = 0.008) -> NoiseSchedule:
    """alpha_bar follows a squared cosine, betas at most 0.999.

    Source: Nichol and Dhariwal (2102.09672), eq. 17.
    """
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + s) / (1 + s) * (math.pi / 2)) ** 2
    return from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))


def rescale_zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """Shift and scale alpha so that the last timestep holds no signal and the first is kept.

    The network must then not predict eps: at t = T-1 it carries no information on x_0.
    Source: Lin et al. (2305.08891), algorithm 1.
    """
    alpha = schedule.alpha_bar.sqrt()
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    return NoiseSchedule(alpha**2)


_BUILDERS: dict[str, Callable[..., NoiseSchedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
}


def build_schedule(
    name: str, num_train_timesteps: int = 1000, zero_terminal_snr: bool = False, **kw: float
) -> NoiseSchedule:
    """A schedule by its name in a config file.

    Args:
        name: "linear", "scaled_linear" or "cosine".
        num_train_timesteps: T >= 1 (>= 2 with zero_terminal_snr).
        zero_terminal_snr: rescale so that t = T-1 is pure noise.
        **kw: beta_start and beta_end, or s, of the named function.

    Returns:
        The schedule.

    Raises:
        MedpairError: for an unknown name.
    """
    if name not in _BUILDERS:
        raise MedpairError(f"schedule: {name!r}; want one of {sorted(_BUILDERS)}; change the key")
    schedule = _BUILDERS[name](num_train_timesteps, **kw)
    return rescale_zero_terminal_snr(schedule) if zero_terminal_snr else schedule


def select_timesteps(T: int, num_steps: int, spacing: Spacing = "trailing") -> tuple[int, ...]:
    """The timesteps a sampler visits, from the noisiest down; the step after the last is clean.

    Args:
        T: number of training timesteps.
        num_steps: how many to visit, 1..T.
        spacing: "trailing" starts at T-1; "leading" ends at 0 and starts below T-1 (for parity).

    Returns:
        num_steps timesteps, strictly falling.

    Raises:
        MedpairError: if num_steps lies outside 1..T or the spacing is unknown.

    Source: Lin et al. (2305.08891), table 2.
    """
    if not 1 <= num_steps <= T:
        raise MedpairError(f"num_steps: {num_steps}; want 1..{T}; ask for fewer sampling steps")
    if spacing == "leading":
        return tuple(i * (T // num_steps) for i in reversed(range(num_steps)))
    if spacing != "trailing":
        raise MedpairError(f"spacing: {spacing!r}; want 'trailing' or 'leading'; change the key")
    rounded = ((2 * T * i + num_steps) // (2 * num_steps) for i in range(num_steps, 0, -1))
    return tuple(t - 1 for t in rounded)


def select_flow_timesteps(T: int, num_steps: int) -> tuple[int, ...]:
    """As `select_timesteps` for rectified flow: num_steps timesteps from T (pure noise) down."""
    return tuple(t + 1 for t in select_timesteps(T, num_steps))


def draw_timesteps(T: int, count: int, emphasis: float, generator: torch.Generator) -> Tensor:
    """Draw timesteps for training with density proportional to t^(emphasis - 1).

    Args:
        T: number of training timesteps.
        count: how many.
        emphasis: above 0; 1 is uniform, more draws high noise levels more often, less low ones.
        generator: source of the draws.

    Returns:
        (count,) int64 in 0..T-1.
    """
    uniform = torch.rand(count, generator=generator) ** (1 / emphasis)
    return (uniform * T).long().clamp(max=T - 1)


def add_noise(schedule: Schedule, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Draw of q(x_t | x_0) with the given noise.

    Args:
        schedule: gives alpha and sigma.
        x_0: (B, ...) clean data.
        eps: (B, ...) standard normal noise.
        t: (B,) timesteps.

    Returns:
        x_t, (B, ...), in x_0's type.

    Source: DDPM (2006.11239), eq. 4.
    """
    alpha, sigma = _amplitudes(schedule, x_0, t)
    return alpha * x_0 + sigma * eps


def training_target(
    schedule: Schedule, x_0: Tensor, eps: Tensor, t: Tensor, prediction: Prediction
) -> Tensor:
    """What the network should put out at x_t.

    Args:
        schedule: gives alpha and sigma.
        x_0: (B, ...) clean data.
        eps: (B, ...) the noise that was added.
        t: (B,) timesteps.
        prediction: "eps", "x0", "v" (alpha eps - sigma x_0) or "flow" (x_0 - eps).

    Returns:
        (B, ...) target.

    Raises:
        MedpairError: for an unknown prediction.

    Source: v: Salimans and Ho (2202.00512), section 4; flow: 2209.03003, eq. 1, MONAI's sign.
    """
    if prediction == "v":
        alpha, sigma = _amplitudes(schedule, x_0, t)
        return alpha * eps - sigma * x_0
    if prediction == "flow":
        return x_0 - eps
    return {"eps": eps, "x0": x_0}[_known(prediction)]


def to_x0_eps(
    output: Tensor,
    x_t: Tensor,
    alpha: float | Tensor,
    sigma: float | Tensor,
    prediction: Prediction,
) -> tuple[Tensor, Tensor]:
    """Turn a network's output into its estimates of the clean data and of the noise.

    Args:
        output: (B, ...) raw network output.
        x_t: (B, ...) noisy state.
        alpha: signal amplitude, a float or a tensor that broadcasts with x_t.
        sigma: noise amplitude, likewise.
        prediction: what the output stands for; "v" needs alpha^2 + sigma^2 = 1.

    Returns:
        (x_0, eps) with x_t = alpha x_0 + sigma eps.

    Raises:
        MedpairError: for an unknown prediction, or eps at a level without signal (alpha = 0).

    Source: DDPM (2006.11239), eq. 15; v: Salimans and Ho (2202.00512), appendix D.
    """
    if prediction == "v":
        return alpha * x_t - sigma * output, sigma * x_t + alpha * output
    if prediction == "x0":
        return output, (x_t - alpha * output) / sigma
    if prediction == "flow":
        scale = 1 / (alpha + sigma)
        return scale * (x_t + sigma * output), scale * (x_t - alpha * output)
    if isinstance(alpha, float) and alpha == 0.0:
        raise MedpairError(
            "prediction: 'eps' at a level without signal; want 'v' or 'x0' with "
            "zero_terminal_snr; change the prediction or the schedule"
        )
    return (x_t - sigma * output) / alpha, {"eps": output}[_known(prediction)]


def learned_log_variance(
    logits: Tensor, log_beta: float | Tensor, log_posterior: float | Tensor
) -> Tensor:
    """The logarithm of a step's variance that a network puts out.

    Args:
        logits: v, any shape; +1 gives the upper, -1 the lower bound.
        log_beta: the upper bound, log of the variance of q(x_t | x_s).
        log_posterior: the lower bound, log of the variance of q(x_s | x_t, x_0).

    Returns:
        v' log_beta + (1 - v') log_posterior with v' = (v + 1) / 2, of v's shape.

    Source: Nichol and Dhariwal (2102.09672), eq. 15, with v in -1..1 as in their code.
    """
    share = (logits + 1) / 2
    return share * log_beta + (1 - share) * log_posterior


def _known(prediction: Prediction) -> Prediction:
    if prediction not in ("eps", "x0", "v", "flow"):
        raise MedpairError(
            f"prediction: {prediction!r}; want 'eps', 'x0', 'v' or 'flow'; change the key"
        )
    return prediction


def _amplitudes(schedule: Schedule, x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at t, (B, 1, ...), in x_0's type."""
    shape = (-1,) + (1,) * (x_0.ndim - 1)
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha.to(x_0.dtype).reshape(shape), sigma.to(x_0.dtype).reshape(shape)
