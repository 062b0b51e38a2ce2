"""R2: whole masks, volumes and directions in lock-step against one window after the other.

Same network, weights, noise, windows and steps. The serial run makes volume after volume and window
after window, each as a batch of one, as algorithm 1 of the paper reads.

    python benchmarks/r2_mask.py --depth 96 --volumes 4 --out r2.json
"""

from __future__ import annotations

from typing import Any

import torch
from race import arguments, check, finish, limits, open_parser, race
from torch import Tensor

from common.diffusion.lockstep import Placed, Round
from common.diffusion.windows import plan_windows

DISAGREE = 1e-3  # share of voxels: a rounding may turn a label where two are equally likely


class Masks:
    """Volumes to be made."""

    def __init__(self, words: Any) -> None:
        settings = {"precision": words.precision, "num_steps": words.steps}
        parser = open_parser("mcdpm_mask", words.preset, **settings)
        self.network = parser.get_parsed_content("network").to(words.device).eval()
        self.sampler = parser.get_parsed_content("sampler")
        self.volumes, self.depth = range(words.volumes), words.depth
        self.starts = [(7 * v + self.depth // 3) % self.depth for v in self.volumes]

    def ours(self, count: int | None = None) -> Tensor:
        """Return labels (V, D, H, W), ``count`` volumes side by side."""
        size = count or len(self.volumes)
        parts = [slice(v, v + size) for v in range(0, len(self.volumes), size)]
        made = [
            self.sampler(
                self.network,
                volumes=self.volumes[part],
                starts=self.starts[part],
                depth=self.depth,
                seed=0,
                finish=lambda scores: scores.argmax(1).byte(),
            )
            for part in parts
        ]
        return torch.cat(made)

    @torch.no_grad()
    def serial(self) -> Tensor:
        """Return the same, window after window."""
        codec, s = self.sampler.diffusion.codec, self.sampler
        device = next(self.network.parameters()).device
        made = []
        for volume, start in zip(self.volumes, self.starts, strict=True):
            plan = plan_windows(self.depth, s.window, s.overlap, start)
            shape = (1, plan.padded_depth, *s.size)
            label = torch.zeros(shape, dtype=torch.uint8, device=device)
            for window in (w for windows in plan.rounds for w in windows):
                alone = Round(1, (Placed(0, 0, window),))
                sampled = s._round(self.network, alone, label, self.depth, [volume], 0)
                new = sampled[0, window.local(window.new)]
                label[0, window.new.start : window.new.stop] = codec.decode(new)
            made.append(label[:, : self.depth])
        return torch.cat(made)


def main() -> None:
    """Check and race."""
    words = arguments(__doc__.splitlines()[0], depth=96, volumes=4, steps=10).parse_args()
    masks = Masks(words)
    wanted = masks.ours()
    share = (masks.serial() != wanted).double().mean()[None]
    differs = check(
        "share of voxels that the serial run labels otherwise", share, share * 0, DISAGREE
    )
    runs = {
        "ours": masks.ours,
        "one volume at a time": lambda: masks.ours(1),
        "serial": masks.serial,
    }
    report = {
        "benchmark": "R2 mask",
        "voxels_that_differ": differs,
        "contestants": race(runs, words.repeats, words.device),
        "limits": limits(words.device, words.precision),
    }
    finish(words, report)


if __name__ == "__main__":
    main()
