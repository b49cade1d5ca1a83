"""Optimizers for a model with adapters: which parameters, in which groups, at which learning rate.

adamw      torch's AdamW over all that is trainable
lora_plus  LoRA+ (Hayou et al. 2024, arXiv:2402.12354): B learns `ratio` times as fast as A
lora_fa    LoRA-FA, second version (Zhang et al. 2023, arXiv:2308.03303): the gradient of B as near to full
           fine-tuning's as a frozen A lets it be
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.adapters.inject import adapters
from lora_course.adapters.lora_fa import LoRAFA

EMBEDDING_LR = 1e-6  # of adapters of embeddings, in the authors' LoRA+ and in PEFT's


def make_optimizer(
    model: nn.Module, lr: float, method: str = "adamw", weight_decay: float = 0.0, ratio: float = 16.0
) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters of `model`.

    method: "adamw", "lora_plus" or "lora_fa".
    weight_decay: AdamW's. 1-D parameters are not decayed; of those lora_plus decays all but biases and layer norms.
    ratio: learning rate of B over that of A, for lora_plus only; the paper's advice is about 16.

    LoRA+ exists as groups, not as a factor on gradients, because Adam divides a gradient by its own size: scaled
    gradients give the same steps.

    Raises ValueError if nothing is trainable, lr or ratio is not positive, the method is unknown, or lora_fa is asked
    for without a layer of that method.
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"ratio must be positive and finite, got {ratio}")
    if method not in METHODS:
        raise ValueError(f"unknown optimizer method {method!r}; there are {', '.join(map(repr, METHODS))}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("no parameter is trainable: call inject(model, config) first, or unfreeze the model")
    return METHODS[method](model, lr, weight_decay, ratio)


def _adamw(model: nn.Module, lr: float, weight_decay: float, ratio: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_by_decay(model, weight_decay), lr=lr)


def _by_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _lora_plus(model: nn.Module, lr: float, weight_decay: float, ratio: float) -> torch.optim.Optimizer:
    """PEFT's four groups: A and all other matrices; adapters of embeddings; B and 1-D parameters, decayed or not."""
    parts: dict[str, list[nn.Parameter]] = {"A": [], "embedding": [], "B": [], "B without decay": []}
    of_embeddings = (a for a in adapters(model).values() if a.kind == "embedding")
    embeddings = {id(t) for adapter in of_embeddings for _, t in adapter.own_tensors() if t.ndim > 1}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if id(p) in embeddings:
            part = "embedding"
        elif "lora_B" not in name and p.ndim != 1:
            part = "A"
        else:
            part = "B without decay" if "bias" in name or id(p) in norms else "B"
        parts[part].append(p)
    rates = {"A": lr, "embedding": EMBEDDING_LR, "B": lr * ratio, "B without decay": lr * ratio}
    groups = [
        {"params": params, "lr": rates[part], "weight_decay": 0.0 if part == "B without decay" else weight_decay}
        for part, params in parts.items()
        if params
    ]
    return torch.optim.AdamW(groups, lr=lr)


def _lora_fa(model: nn.Module, lr: float, weight_decay: float, ratio: float) -> torch.optim.Optimizer:
    layers = [adapter for adapter in adapters(model).values() if isinstance(adapter, LoRAFA)]
    if not layers:
        raise ValueError("no layer with a frozen A: inject(model, AdapterConfig(method='lora_fa', ...)) first")
    return ProjectedAdamW(_by_decay(model, weight_decay), layers, lr=lr)


class ProjectedAdamW(torch.optim.Optimizer):
    """AdamW whose gradient of each LoRA-FA B is first replaced by

        g' = g (A A^T + 1e-8 I)^-1 / s^2            g (out, r), A (r, in), s the layer's scaling

    A step dB changes s B A by s dB A, which can follow the gradient G (out, in) of W only within the rows of A. The
    plain gradient g = s G A^T does not even do that well; g' is the dB that brings s dB A nearest to G.
    The Adam step is the one of the authors and PEFT: eps, 1e-6, is added before the bias is corrected.

    params: parameters or groups.  layers: those whose B is among them.
    """

    def __init__(
        self,
        params: Iterable[Any],
        layers: Iterable[LoRAFA],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.layer_of = {layer.lora_B: layer for layer in layers}

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = project(p.grad, self.layer_of[p]) if p in self.layer_of else p.grad
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                m, v = state["exp_avg"], state["exp_avg_sq"]
                m.mul_(beta1).add_(g, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                size = lr * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                p.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-size)
                p.add_(p, alpha=-lr * group["weight_decay"])
        return loss


def project(g: Tensor, layer: LoRAFA) -> Tensor:
    """g (out, r), the gradient of B -> g (A A^T + 1e-8 I)^-1 / s^2."""
    A = layer.lora_A.to(torch.promote_types(g.dtype, torch.float32))
    gram = A @ A.T + 1e-8 * torch.eye(len(A), dtype=A.dtype, device=A.device)  # (r, r)
    return ((1 / layer.scaling**2) * (g.to(A.dtype) @ torch.linalg.pinv(gram))).to(g.dtype)


METHODS = {"adamw": _adamw, "lora_plus": _lora_plus, "lora_fa": _lora_fa}
