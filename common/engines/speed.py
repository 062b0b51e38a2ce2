"""How fast a training was: windows per second, waiting, share of the device's peak, memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.utils.flop_counter import FlopCounterMode

from common.engines.distributed import is_first, processes
from common.io.atomic import append_jsonl
from common.io.usage import Usage

PEAK_TFLOPS: Mapping[str, float] = {"A100": 312.0, "H100": 989.0, "H200": 989.0}
"""Dense bf16 peak by a part of the device's name, 10^12 operations per second.

Source: NVIDIA's data sheets of A100, H100 (SXM) and H200 (SXM); other forms of a device have less.
"""


def peak_tflops(device: torch.device | str) -> float | None:
    """Return the bf16 peak of a device in TFLOP/s, None where it is not known."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


@contextmanager
def counted_flops() -> Iterator[Callable[[], int]]:
    """Count the floating-point operations of the block, uncompiled.

    Yields:
        What returns their number: multiplications and additions of convolutions, matrix products
        and attention, forward and backward.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        yield counter.get_total_flops


def windows_in(batch: Mapping[str, Any]) -> int:
    """Return the number of windows (slices, sequences) of a training batch."""
    return next(len(value) for value in batch.values() if isinstance(value, Sized))


class Speed:
    """Log the speed of a training once, when it completes, and append it to ``run.jsonl``.

    The line has ``windows_per_s`` of all processes, ``waited`` (the share of the time that went
    into waiting for batches), seconds and peak memory; where the device's peak is known
    also ``tflops`` and ``share_of_peak``, of one process. The first update is left out of the
    speed: it compiles, and on such devices its operations are counted.

    Args:
        output_dir: gets ``run.jsonl``.
        device: of the training.
        count: whether operations are counted; updates that call `torch.autograd.grad` cannot be.
    """

    def __init__(
        self, output_dir: str, device: torch.device | str = "cpu", count: bool = True
    ) -> None:
        self.path, self.peak = (
            Path(output_dir) / "run.jsonl",
            peak_tflops(device) if count else None,
        )
        self.usage = Usage()
        self.windows = self.updates = self.flops = 0
        self.began = self.asked = self.waited = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self.usage = Usage()
        self.windows = self.updates = self.flops = 0
        self.began, self.waited = time.perf_counter(), 0.0
        if self.peak is not None:
            self._count(engine)

    def _count(self, engine: Engine) -> None:
        update = engine._process_function

        def counted(engine: Engine, batch: Any) -> Any:
            engine._process_function = update
            with counted_flops() as total:
                output = update(engine, batch)
            self.flops = total()
            return output

        engine._process_function = counted

    def _ask(self) -> None:
        self.asked = time.perf_counter()

    def _get(self) -> None:
        self.waited += time.perf_counter() - self.asked

    def _add(self, engine: Engine) -> None:
        if self.updates == 0:
            self.began, self.waited = time.perf_counter(), 0.0
        else:
            self.windows += windows_in(engine.state.batch)
        self.updates += 1

    def _report(self) -> None:
        if not is_first() or self.updates < 2:
            return
        seconds = time.perf_counter() - self.began
        rate = self.windows / seconds
        line: dict[str, Any] = {
            "updates": self.updates,
            "windows_per_s": round(rate * processes(), 3),
            "waited": round(self.waited / seconds, 4),
            **self.usage.measured(),
        }
        if self.peak is not None:
            tflops = self.flops * (self.updates - 1) / seconds / 1e12
            line |= {"tflops": round(tflops, 2), "share_of_peak": round(tflops / self.peak, 4)}
        append_jsonl(self.path, line)
        told = ", ".join(f"{key} {value}" for key, value in line.items())
        logging.getLogger(__name__).info("training: %s", told)
