"""Delta-LoRA (Zi et al. 2023, arXiv:2309.02411): let the base weight follow the adapter.

    W_{t+1} = W_t + lam s (B_{t+1} A_{t+1} - B_t A_t)       after every optimizer step from step K on

W gets no gradient and no optimizer state, yet it moves. But the sum telescopes: W_t = W_0 + lam s (B_t A_t - B_K A_K).
So W_0 stays as it was loaded, two thin products give W_t x, and all that must be remembered is A_K and B_K: rounding
does not pile up over the steps, a half-precision or quantized W_0 loses nothing, and a killed run goes on bit for bit.
From K = 0, where B_0 = 0, the forward pass is that of LoRA with alpha' = (1 + lam) alpha; only gradients keep alpha.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters.base import at_least_float32, trained_ids
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.lora import LoRA
from lora_course.adapters.sharded import refuse_sharded

_HOOKED: WeakSet[torch.optim.Optimizer] = WeakSet()


class DeltaLoRA(LoRA):
    """LoRA whose W follows B A once `DeltaUpdate` has begun; before that, or without it, plain LoRA.

    r (in + out) trainable. The buffers hold what `DeltaUpdate` sets, so that a model's state_dict is all there is.
    Raises ValueError for dropout: W follows B A, not what dropout leaves of it.
    """

    has_dropout = False

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        device = self.weight.device
        self.register_buffer("start_A", torch.zeros_like(self.lora_A, requires_grad=False))  # A_K
        self.register_buffer("start_B", torch.zeros_like(self.lora_B, requires_grad=False))  # B_K
        self.register_buffer("lam", torch.zeros((), device=device))  # 0 until step K
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in), or token ids (...) on an embedding; returns (..., out)."""
        h = super().forward(x)  # W_0 x + b + s B A x, with gradients for A and B
        if self.merged:
            return h
        A = torch.cat([self.lora_A.detach(), self.start_A])  # (2 r, in)
        B = torch.cat([self.lora_B.detach(), -self.start_B], dim=1)  # (out, 2 r)
        moved = F.linear(self.project_in(x, A), B)  # (B A - B_K A_K) x, a gradient for x alone
        return h + (moved * (self.lam * self.scaling)).to(h.dtype)

    def drift(self) -> Tensor:
        """W_t - W_0, (out, in)."""
        moved = self.lora_B @ self.lora_A - self.start_B @ self.start_A
        return (moved * (self.lam * self.scaling)).detach()

    def delta_weight(self) -> Tensor:
        """All that separates the layer from W_0: s B A and the drift of W. (out, in)"""
        A, B = at_least_float32(*self.as_lora())
        return (B @ A) * self.scaling

    def as_lora(self) -> tuple[Tensor, Tensor]:
        """A (2 r, in), B (out, 2 r): the plain LoRA of scale s that changes W_0 as much as this layer does."""
        A = torch.cat([self.lora_A, self.start_A])
        B = torch.cat([(1 + self.lam) * self.lora_B, -self.lam * self.start_B], dim=1)
        return A.detach(), B.detach()

    @torch.no_grad()
    def plain_lora(self) -> LoRA:
        """The same change of the same base as a plain LoRA, which every tool can read: of rank r if K was 0, else 2 r.

        A file holds this. What it takes to go on as Delta-LoRA is in the state_dict.
        """
        A, B = self.as_lora()
        if not (self.lam and self.start_A.any() and self.start_B.any()):
            A, B = A[: self.config.rank], B[:, : self.config.rank]
        alpha = self.config.alpha * len(A) / self.config.rank
        plain = replace(self.config, method="lora", rank=len(A), alpha=alpha)
        return LoRA(self.base_layer, plain, A, B).train(self.training)


class DeltaUpdate:
    """Makes W follow from step K on, whoever calls `optimizer.step()`: our loop, transformers.Trainer, accelerate.

    model: injected with method="delta_lora".  optimizer: the one that trains its A and B.
    lam: how much of the adapter's change W follows; the paper takes 0.5.
    start: K, the number of first steps after which W begins to follow.

    Everything it knows lies in the buffers of the layers: a checkpoint that holds them needs nothing else. Beside one
    of A and B alone, keep `state_dict()`.

    Raises ValueError if the model has no such adapters, the optimizer does not train one of them or has an update
    already, parameters are sharded, or lam or start makes no sense.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, lam: float = 0.5, start: int = 0):
        if not (lam > 0 and math.isfinite(lam)):
            raise ValueError(f"lam must be positive and finite, got {lam}; for a W that stays use method='lora'")
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise ValueError(f"start is a number of steps, 0 or more, got {start!r}")
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, DeltaLoRA)}
        if not self.layers:
            raise ValueError("no Delta-LoRA layer: inject(model, AdapterConfig(method='delta_lora', ...)) first")
        own = [p for layer in self.layers.values() for p in (layer.lora_A, layer.lora_B)]
        refuse_sharded(own, "Delta-LoRA", "train it under DistributedDataParallel, not FSDP")
        trained = trained_ids(optimizer)
        for name, layer in self.layers.items():
            if not {id(layer.lora_A), id(layer.lora_B)} <= trained:
                raise ValueError(f"the optimizer does not train the adapter at {name!r}: make it after inject")
        if optimizer in _HOOKED:
            raise ValueError("this optimizer has a DeltaUpdate already: it would count every step twice")
        self.optimizer, self.lam, self.start = optimizer, lam, start
        if self.begun and not math.isclose(self.begun, lam, rel_tol=1e-6):
            raise ValueError(f"W follows with lam={self.begun:g} already: go on with that, not with {lam}")
        self.handle = optimizer.register_step_pre_hook(self._before_step)
        _HOOKED.add(optimizer)

    def remove(self) -> None:
        """Count no more steps. A W that follows goes on following, since it is a function of A and B."""
        self.handle.remove()
        _HOOKED.discard(self.optimizer)

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        begins = not self.begun and self.steps >= self.start
        for layer in self.layers.values():
            if begins:  # here B A = B_K A_K, so nothing jumps
                layer.start_A.copy_(layer.lora_A), layer.start_B.copy_(layer.lora_B), layer.lam.fill_(self.lam)
            layer.steps += 1

    @property
    def steps(self) -> int:
        """Optimizer steps taken so far."""
        return int(next(iter(self.layers.values())).steps)

    @property
    def begun(self) -> float:
        """The lam with which W follows by now, 0 before step K."""
        return float(next(iter(self.layers.values())).lam)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Layer -> its buffers. References, as in an optimizer's state_dict."""
        return {name: dict(layer.named_buffers(recurse=False)) for name, layer in self.layers.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from a `state_dict()`. Raises ValueError, before anything is changed, if it does not fit."""
        here = {f"{name}.{key}": t for name, buffers in self.state_dict().items() for key, t in buffers.items()}
        there = {f"{name}.{key}": t for name, buffers in state.items() for key, t in buffers.items()}
        for key in sorted(here.keys() | there.keys()):
            mine, other = (tuple(d[key].shape) if key in d else "absent" for d in (here, there))
            if mine != other:
                raise ValueError(f"this state is of another model: {key} is {other} in it, {mine} in the model")
        for key, tensor in here.items():
            tensor.copy_(there[key])
