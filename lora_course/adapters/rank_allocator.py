"""AdaLoRA's allocator (Zhang et al. 2023, arXiv:2303.10512): which ranks of which layers are worth the budget.

A triplet (row of A, entry of E, column of B) has an importance: |weight * gradient|, smoothed over the steps, times how
much that still fluctuates; that of E plus the means over the row and the column (their equations 8 to 12). The budget
falls along a cubic (their equation 13), and E of the least important triplets is set to 0. For E to mean something,
A A^T and B^T B are held near the identity by a penalty (their equation 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lora_course.adapters.adalora import AdaLoRA
from lora_course.adapters.base import trained_ids
from lora_course.adapters.sharded import refuse_sharded

_HOOKED: WeakSet[torch.optim.Optimizer] = WeakSet()
AVERAGES = ("importance", "uncertainty")  # what the allocator adds to the optimizer's state of a parameter


class RankAllocator:
    """Holds A and B near orthogonal and spends the rank budget, whoever calls `optimizer.step()`.

    model: injected with method="adalora".  optimizer: the one that trains its A, E and B.
    target_rank: average rank a layer has in the end, from 1 to below the rank that it begins with.
    total_steps: optimizer steps of the whole run. The first is step 0, as in PEFT's examples.
    warmup, final: steps of full rank at the start, and of the final ranks at the end.
    every: steps from one masking to the next.  beta1, beta2: how slowly importance and its fluctuation follow.
    orthogonality: weight of the penalty, whose gradient is added just before each step, after any clipping; 0 for none.

    Masks and step count are buffers of the layers, the averages lie in the optimizer's state: a checkpoint of both
    goes on bit for bit. After the last masking the averages are dropped.

    Raises ValueError if the model has no such adapters, the optimizer does not train one of them or has an allocator
    already, parameters are sharded, or the schedule makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        target_rank: int,
        total_steps: int,
        warmup: int = 0,
        final: int = 0,
        every: int = 1,
        beta1: float = 0.85,
        beta2: float = 0.85,
        orthogonality: float = 0.5,
    ):
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, AdaLoRA)}
        if not self.layers:
            raise ValueError("no AdaLoRA layer: inject(model, AdapterConfig(method='adalora', ...)) first")
        rank = next(iter(self.layers.values())).config.rank
        if not 1 <= target_rank < rank:
            raise ValueError(f"target_rank must be at least 1 and below the first rank, {rank}; got {target_rank}")
        if warmup < 0 or final < 0 or every < 1 or warmup >= total_steps - final:
            raise ValueError(
                f"warmup={warmup} and final={final} leave no step of {total_steps} to lower the budget in, or "
                f"every={every} is below 1"
            )
        if not (0 < beta1 < 1 and 0 < beta2 < 1 and orthogonality >= 0):
            raise ValueError(f"need beta1, beta2 in (0, 1), orthogonality >= 0: got {beta1}, {beta2}, {orthogonality}")
        own = [p for layer in self.layers.values() for p in layer.factors()]
        refuse_sharded(own, "AdaLoRA", "train it under DistributedDataParallel, not FSDP")
        trained = trained_ids(optimizer)
        for name, layer in self.layers.items():
            if not {id(p) for p in layer.factors()} <= trained:
                raise ValueError(f"the optimizer does not train the adapter at {name!r}: make it after inject")
        if optimizer in _HOOKED:
            raise ValueError("this optimizer has a RankAllocator already: two would count every step twice")
        self.optimizer, self.target_rank, self.total_steps = optimizer, target_rank, total_steps
        self.warmup, self.final, self.every = warmup, final, every
        self.beta1, self.beta2, self.orthogonality = beta1, beta2, orthogonality
        self.handles = [
            optimizer.register_step_pre_hook(self._add_penalty),
            optimizer.register_step_post_hook(self._allocate),
        ]
        _HOOKED.add(optimizer)

    def remove(self) -> None:
        """Mask no more and add no penalty."""
        for handle in self.handles:
            handle.remove()
        _HOOKED.discard(self.optimizer)

    @property
    def step(self) -> int:
        """Optimizer steps taken so far, which is the number of the next one."""
        return int(next(iter(self.layers.values())).steps)

    def ranks(self) -> dict[str, int]:
        """Layer -> ranks not masked."""
        return {name: int(layer.kept.sum()) for name, layer in self.layers.items()}

    def _add_penalty(self, *_: Any) -> None:
        if not self.orthogonality:
            return
        parameters = [p for layer in self.layers.values() for p in (layer.lora_A, layer.lora_B) if p.grad is not None]
        if not parameters:
            return
        with torch.enable_grad():
            penalty = self.orthogonality * orthogonality_penalty(self.layers.values())
        for p, gradient in zip(parameters, torch.autograd.grad(penalty, parameters), strict=True):
            p.grad += gradient

    @torch.no_grad()
    def _allocate(self, *_: Any) -> None:
        step, last = self.step, self.total_steps - self.final
        if step < last:
            for layer in self.layers.values():
                for p in layer.factors():
                    self._follow(p)
        if step == last or (self.warmup < step < last and step % self.every == 0):
            scores = {name: self._triplets(layer) for name, layer in self.layers.items()}
            kept = keep_most_important(scores, self.budget(step))
            for name, layer in self.layers.items():
                layer.kept.copy_(kept[name])
                layer.lora_E.masked_fill_(~kept[name].unsqueeze(1), 0.0)
        elif step > last:
            for layer in self.layers.values():
                layer.lora_E.masked_fill_(~layer.kept.unsqueeze(1), 0.0)
        if step == last:
            for layer in self.layers.values():
                for p in layer.factors():
                    for key in AVERAGES:
                        self.optimizer.state[p].pop(key, None)
        for layer in self.layers.values():
            layer.steps += 1

    def budget(self, step: int) -> int:
        """Ranks that the whole model may have at this step."""
        first = sum(layer.config.rank for layer in self.layers.values())
        target = self.target_rank * len(self.layers)
        return cubic_budget(step, first, target, self.warmup, self.total_steps - self.final)

    def _follow(self, p: nn.Parameter) -> None:
        if p.grad is None:
            return
        state = self.optimizer.state[p]
        average, spread = (state.get(key, torch.zeros_like(p)) for key in AVERAGES)
        now = (p * p.grad).abs()
        average = self.beta1 * average + (1 - self.beta1) * now
        spread = self.beta2 * spread + (1 - self.beta2) * (now - average).abs()
        state.update(zip(AVERAGES, (average, spread), strict=True))

    def _triplets(self, layer: AdaLoRA) -> Tensor:
        A, E, B = (self._score(p) for p in layer.factors())  # (r, in), (r, 1), (out, r)
        return E.view(-1) + torch.stack([A.mean(dim=1), B.mean(dim=0)], dim=1).sum(dim=1)  # (r,)

    def _score(self, p: nn.Parameter) -> Tensor:
        average, spread = (self.optimizer.state[p].get(key) for key in AVERAGES)
        return torch.zeros_like(p) if average is None else average * spread


def orthogonality_penalty(layers: Iterable[AdaLoRA]) -> Tensor:
    """Mean over all A and B of ||A A^T - I|| and ||B^T B - I||, Frobenius norms, unsquared as in PEFT (the paper
    squares them). A scalar with gradients.
    """
    gram = [g for layer in layers for g in (layer.lora_A @ layer.lora_A.T, layer.lora_B.T @ layer.lora_B)]
    return sum(torch.norm(g - torch.eye(len(g), dtype=g.dtype, device=g.device)) for g in gram) / len(gram)


def cubic_budget(step: int, first: int, target: int, warmup: int, last: int) -> int:
    """`first` up to `warmup`, then a cubic that falls steeply at once and reaches `target` at step `last`."""
    if step <= warmup:
        return first
    if step >= last:
        return target
    return int((first - target) * (1 - (step - warmup) / (last - warmup)) ** 3 + target)


def keep_most_important(scores: dict[str, Tensor], budget: int) -> dict[str, Tensor]:
    """Which triplets to keep: those above the score that leaves `budget` of them (fewer if scores tie).

    scores: layer -> (r,); returns layer -> (r,) bool.
    """
    everything = torch.cat([*scores.values()])
    dropped = everything.numel() - budget
    if dropped <= 0:
        return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    threshold = torch.kthvalue(everything, dropped).values
    return {name: ~(score <= threshold) for name, score in scores.items()}
