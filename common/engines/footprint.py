"""How much memory a computation holds at its peak, found without running it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside of it and still in use.

    Attributes:
        peak: the most that were in use at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # views share one storage
        if key in self._known:
            return
        self._known.add(key)
        self._live += storage.nbytes()
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


@torch.no_grad()
def peak_bytes(run: Callable[[], Any]) -> int:
    """Return the bytes that a computation holds at its peak, beside what it is given.

    Nothing is computed and no memory is taken: tensors have shapes and types alone. Scratch of
    libraries is not in it, which differs between them.

    Args:
        run: makes its inputs itself; may call networks on any device; reads no values of tensors.
    """
    counted = LiveBytes()
    with FakeTensorMode(allow_non_fake_inputs=True), counted:
        run()
    return counted.peak
