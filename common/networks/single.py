"""Networks of many inputs in a form of one: shape checks, TorchScript and ONNX feed one tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.networks.strict import refuse_misfits

LAST_STEP = 999.0
"""The noisiest time step of the shipped schedules: what is predicted there owes nothing to x_t."""


class SingleInput(nn.Module):
    """A network that also says something of one tensor alone.

    `monai.bundle verify_net_in_out` calls networks with one tensor, and `monai.bundle ckpt_export`
    scripts them, which their several inputs, lists and loops do not allow: scripting gets the
    traced form of one input instead.

    It takes weights that fit, or none, see `refuse_misfits`.

    Source: ``torch.jit.script`` calls ``__prepare_scriptable__`` where there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        refuse_misfits(self)

    @property
    def single_size(self) -> tuple[int, ...]:
        """Size (C, ...) that the form is traced at, that of the bundle's ``metadata.json``."""
        return 1, 48, 40, 40

    def single(self, image: Tensor) -> Tensor:
        """Return the prediction for (B, C, ...), float32."""
        raise NotImplementedError

    def __prepare_scriptable__(self) -> nn.Module:
        device = next(self.parameters()).device
        example = torch.zeros(1, *self.single_size, device=device)
        traced = torch.jit.trace(_Single(self).eval(), example, check_trace=False)
        return _Scriptable(traced)


class _Single(nn.Module):
    def __init__(self, network: SingleInput) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.single(image)


class _Scriptable(nn.Module):
    """Around the traced module, which cannot be scripted itself."""

    def __init__(self, traced: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.traced(image)
        return out


# TorchScript wants types here, and `annotations` of this file are strings
_Scriptable.forward.__annotations__.update({"image": Tensor, "return": Tensor})


def label_volumes(image: Tensor, num_classes: int) -> Tensor:
    """Return labels (B, D, H, W), int64, of a single input (B, 1, D, H, W) of any number type."""
    return image[:, 0].round().long().clamp(0, num_classes - 1)
