"""What autograd keeps for the backward pass, and which module kept it.

Every tensor that an operation saves passes through a hook. We hand it on inside a `Kept`, which lives as long as the
graph needs the tensor. So whatever is alive at the end of the forward pass is what is saved, no more and no less.
Under gradient checkpointing the hook sees the inputs of a block only, since the rest is thrown away.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from lora_course.adapters.base import Adapter
from lora_course.memory.live import storage_key

OUTSIDE = "(outside the model)"


class Kept:
    """A saved tensor and the name of the module that was running."""

    __slots__ = ("__weakref__", "module", "number", "tensor")

    def __init__(self, tensor: Tensor, module: str, number: int):
        self.tensor, self.module, self.number = tensor, module, number


class SavedTensors:
    """What `record` has seen and the graph still holds."""

    def __init__(self, not_counted: Iterable[Tensor]):
        self._kept: weakref.WeakSet[Kept] = weakref.WeakSet()
        self._numbers = itertools.count()
        self._not_counted = {storage_key(t): t for t in not_counted}  # held, so that no other gets their address

    def tensors(self) -> list[Kept]:
        """What is held now, each storage once, in the order of saving. Weights do not count."""
        seen, first = set(self._not_counted), []
        for kept in sorted(self._kept, key=lambda kept: kept.number):
            if (key := storage_key(kept.tensor)) not in seen:
                seen.add(key)
                first.append(kept)
        return first

    def by_module(self) -> dict[str, int]:
        """Module name -> bytes, each storage once, for the module that saved it first. Weights do not count."""
        sizes: dict[str, int] = {}
        for kept in self.tensors():
            sizes[kept.module] = sizes.get(kept.module, 0) + kept.tensor.untyped_storage().nbytes()
        return {module: size for module, size in sizes.items() if size}

    @contextlib.contextmanager
    def record(self, model: nn.Module) -> Iterator[None]:
        """See every tensor that is saved inside the block."""
        running: list[str] = [OUTSIDE]

        def enter(name: str):
            return lambda *_: running.append(name)

        def leave(*_: object) -> None:
            running.pop()

        def pack(tensor: Tensor) -> Kept:
            kept = Kept(tensor.detach(), running[-1], next(self._numbers))  # attached, it would hold its own graph
            self._kept.add(kept)
            return kept

        hooks = []
        inside = {m.base_layer for m in model.modules() if isinstance(m, Adapter)}  # hooks there would part the step
        for name, module in model.named_modules():
            if module in inside:
                continue
            hooks += [
                module.register_forward_pre_hook(enter(name or "(the model itself)"), prepend=True),
                module.register_forward_hook(leave, always_call=True),
            ]
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()
