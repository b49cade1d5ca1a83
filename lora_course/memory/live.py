"""Which tensors are alive, operation by operation: the peak of a step, on any device and on none.

A dispatch mode sees the result of every operation of forward, backward and optimizer step. Each new storage adds its
bytes; when it is freed, a weak reference takes them off again. What one operation needs inside itself (the workspace
of a matrix product) is not seen: only tensors are.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storage_key(tensor: Tensor) -> int:
    """The same for tensors that share memory, different for any other two that are alive. Defined on meta too."""
    return tensor.untyped_storage()._cdata


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of what the tensors lie in, each storage once."""
    return sum({storage_key(t): t.untyped_storage().nbytes() for t in tensors}.values())


class LiveBytes(TorchDispatchMode):
    """Inside the block, `now` is the bytes of living tensors and `peak` the most there were.

    there: tensors that exist beforehand (weights, the batch), counted from the start.
    """

    def __init__(self, there: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}
        for tensor in there:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def peak_so_far(self) -> int:
        """The peak since the last call, or since the start. The next begins with what is alive now."""
        peak, self.peak = self.peak, self.now
        return peak

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: weakref.ref) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def allocator_peak(device: torch.device) -> int | None:
    """What CUDA's allocator handed out at most since `torch.cuda.reset_peak_memory_stats`; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
