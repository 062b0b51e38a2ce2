"""A perfect denoiser of one known mask, and small real ones.

R rows of a batch, S slices per window, C code channels, D depth, H height, W width.
"""

import pytest
import torch
from torch import Tensor, nn

from common.diffusion.schedules import NoiseSchedule, cosine, training_target
from mcdpm.codec import LabelCodec, build_codec
from mcdpm.diffusion import MaskDiffusion
from mcdpm.network import MaskDenoiser
from mcdpm.sampler import MaskSampler

NUM_CLASSES = 6
SIZE = (8, 6)


class Oracle(nn.Module):
    """Answer exactly for one mask, whose slices it finds by the position (z/D, 1/D).

    Condition slices must be the clean code of the mask at their true index, marked by the
    indicator; `asked` remembers how many there were.
    """

    def __init__(self, label_DHW: Tensor, diffusion: MaskDiffusion, share: float = 1.0) -> None:
        super().__init__()
        self.share = share  # of the code: below 1 the answer is soft
        self.device_marker = nn.Parameter(torch.zeros(1))
        self.label, self.diffusion = label_DHW, diffusion
        self.asked: list[Tensor] = []
        self.rows: list[int] = []

    def forward(self, x_RSCHW: Tensor, t_R: Tensor, position_R2: Tensor) -> Tensor:
        self.rows.append(len(x_RSCHW))
        x, indicator = x_RSCHW[:, :, :-1], x_RSCHW[:, :, -1, 0, 0]
        assert torch.equal(x_RSCHW[:, :, -1], indicator[..., None, None].expand_as(x[:, :, 0]))
        self.asked.append(indicator.sum(1))
        output = torch.zeros_like(x)
        for row, (place, step) in enumerate(position_R2.tolist()):
            if step > 0:  # rows without a window carry no position
                label = self._window(round(place / step), round(1 / step), x.shape[1])
                output[row] = self._answer(x[row], label, indicator[row].bool(), int(t_R[row]))
        return output

    def _window(self, start: int, depth: int, slices: int) -> Tensor:
        assert depth == len(self.label)
        beyond = self.label[-1:].expand(max(0, start + slices - depth), -1, -1)
        return torch.cat([self.label, beyond])[start : start + slices]

    def _answer(self, x_SCHW: Tensor, label_SHW: Tensor, known_S: Tensor, t: int) -> Tensor:
        d = self.diffusion
        x_0 = d.codec.encode(label_SHW)
        assert torch.equal(x_SCHW[known_S], x_0[known_S])
        if d.prediction == "logits":
            return 40 * x_0
        x_0 = self.share * x_0
        alpha, sigma = d.schedule.alpha_sigma(t)
        eps = (x_SCHW - alpha * x_0) / sigma
        times = torch.full((len(x_0),), t)
        return training_target(d.schedule, x_0, eps, times, d.prediction)


def make_label(depth: int, seed: int = 0) -> Tensor:
    """A mask (D, H, W) in which every slice is different."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, NUM_CLASSES, (depth, *SIZE), generator=generator, dtype=torch.uint8)


def make_diffusion(
    prediction: str = "v", code: str = "one_hot", schedule: NoiseSchedule | None = None, **kw: float
) -> MaskDiffusion:
    codec: LabelCodec = build_codec(code, NUM_CLASSES)
    return MaskDiffusion(codec, schedule or cosine(), prediction, **kw)  # type: ignore[arg-type]


def make_sampler(diffusion: MaskDiffusion, **kw: object) -> MaskSampler:
    settings = {"window": 6, "size": SIZE, "num_steps": 3, "precision": "fp32"} | kw
    return MaskSampler(diffusion, **settings)  # type: ignore[arg-type]


def make_denoiser(**kw: object) -> MaskDenoiser:
    """A small network with random weights everywhere, the zero-initialised layers too."""
    settings = {"code_channels": NUM_CLASSES, "window": 6, "channels": [8, 16], "embedding": 16}
    network = MaskDenoiser(**(settings | kw))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network.eval()


class Make:
    """What the tests of this folder are made of."""

    label = staticmethod(make_label)
    diffusion = staticmethod(make_diffusion)
    sampler = staticmethod(make_sampler)
    denoiser = staticmethod(make_denoiser)
    oracle = Oracle


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make
