"""Change the rank of LoRA layers while they train: function-preserving growth, importance-ordered shrinking.

    grow    new rows of A random, new columns of B zero: B A, and so the model, stays what it was
    shrink  the best rank-k approximation of B A: its k largest singular values (Eckart and Young 1936)
alpha changes along with the rank, so that s stays; the optimizer's averages move along too; what is cut
off is gone from memory. When and where to do it is the business of rank_controller.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_course.adapters.base import trained_ids
from lora_course.adapters.lora import LoRA
from lora_course.device import process_count

METHODS = ("lora", "rslora")  # A and B are all of them
GRADIENTS = ("exp_avg", "momentum_buffer")  # averages of gradients: they transform as gradients do
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")  # averages of squared gradients


def resize_rank(target: nn.Module, rank: int, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
    """Give a LoRA layer, or every one in a model, this rank, between two optimizer steps. In place; returns `target`.

    optimizer: what trains the layers, if there is one already. A and B become new tensors, and an optimizer that is
    not told would hold on to the old ones and train nothing. Its averages are carried over: of gradients exactly as
    the gradients of the new A and B follow from those of the old, of squared gradients as if entries were independent;
    a new row or column starts with no momentum and the others' mean square, so that its first steps are not oversized.
    State of any other kind starts afresh.

    Raises ValueError, before anything is changed, if there is no LoRA layer, a rank does not fit a layer, a layer is
    merged or of another method, the optimizer does not train it, or several processes train the model together.
    """
    layers = lora_layers(target)
    for name, layer in layers.items():
        _check(name, layer, rank, optimizer)
    for layer in layers.values():
        old = layer.config.rank
        if rank == old:
            continue
        A, B = layer.lora_A.detach(), layer.lora_B.detach()
        if rank > old:
            extra = type(layer)(layer.base_layer, replace(layer.config, rank=rank - old))  # initialised as a new layer
            A, B = torch.cat([A, extra.lora_A.detach()]), torch.cat([B, extra.lora_B.detach()], dim=1)
            mix_A = mix_B = None
        elif layer.kind == "embedding":  # there B is the random one: the same with A and B exchanged
            BT, AT, C, D = best_approximation(B.T, A.T, rank)
            A, B, mix_A, mix_B = AT.T, BT.T, C, D
        else:
            A, B, C, D = best_approximation(A, B, rank)
            mix_A, mix_B = D.T, C.T
        _replace(layer, "lora_A", A, optimizer, 0, mix_A)
        _replace(layer, "lora_B", B, optimizer, 1, mix_B)
        scaling = layer.scaling
        layer.config = replace(layer.config, rank=rank)
        layer.config = replace(layer.config, alpha=layer.config.alpha * scaling / layer.scaling)
    return target


def best_approximation(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A' (rank, in) and B' (out, rank) with B' A' the matrix of that rank nearest to B A in the Frobenius norm.

    A (r, in), B (out, r). The distance is the root of the sum of the squared singular values left out. Rows of A' are
    orthogonal, each as long as a row of A is on average; B' takes the singular values, so that a direction of value 0
    can still learn, like a new one. Nothing of the size (out, in) is made.
    Also returns C (rank, r) and D (r, rank) with A' = C A and B' = B D: gradients follow by dA' = D^T dA, dB' = dB C^T.
    """
    like = A
    A, B = A.to("cpu", torch.float64), B.to("cpu", torch.float64)
    Q_B, R_B = torch.linalg.qr(B)  # B = Q_B R_B
    Q_A, R_A = torch.linalg.qr(A.T)  # A = R_A^T Q_A^T
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)  # B A = Q_B U S Vh Q_A^T
    length = A.norm(dim=1).square().mean().sqrt().clamp_min(torch.finfo(like.dtype).tiny)
    V = Vh[:rank].T
    C = length * V.T @ torch.linalg.pinv(R_A.T)
    D = R_A.T @ V / length
    new_A = length * (Q_A @ V).T
    new_B = Q_B @ (U[:, :rank] * S[:rank]) / length
    return tuple(t.to(like.device, like.dtype) for t in (new_A, new_B, C, D))


@torch.no_grad()
def singular_values(layer: LoRA) -> Tensor:
    """Those of the change s B A, largest first: (min(rank, in, out),), float64 on the CPU."""
    A, B = layer.lora_A.to("cpu", torch.float64), layer.lora_B.to("cpu", torch.float64)
    return torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T) * layer.scaling


def lora_layers(target: nn.Module) -> dict[str, LoRA]:
    layers = {name: m for name, m in target.named_modules() if isinstance(m, LoRA)}
    if not layers:
        raise ValueError("no LoRA layer to resize: call inject(model, config) first")
    return layers


def _check(name: str, layer: LoRA, rank: int, optimizer: torch.optim.Optimizer | None) -> None:
    where = f"{name or 'this layer'} ({layer.in_features} in, {layer.out_features} out)"
    if process_count() > 1:
        raise ValueError(
            f"{where} cannot be resized while {process_count()} processes train it: they would go on averaging the "
            "gradients of the old tensors. Use AdaLoRA, whose masks leave the tensors as they are"
        )
    most = min(layer.in_features, layer.out_features)
    if layer.config.method not in METHODS:
        raise ValueError(f"{where} is of method {layer.config.method!r}; only {' and '.join(METHODS)} can be resized")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ValueError(f"{where} can have a rank from 1 to {most}, got {rank!r}")
    if layer.merged:
        raise ValueError(f"{where} is merged into the base: call unmerge(model) first")
    if optimizer is not None:
        trained = trained_ids(optimizer)
        if not {id(layer.lora_A), id(layer.lora_B)} <= trained:
            raise ValueError(f"the optimizer does not train {where}: pass the one that does, or none")


def _replace(
    layer: LoRA, name: str, values: Tensor, optimizer: torch.optim.Optimizer | None, dim: int, mix: Tensor | None
) -> None:
    """Put a new parameter in place of the old one, in the layer and in the optimizer.

    dim: which dimension is the rank.  mix: what gradients are multiplied by along it (from the left for A, from the
    right for B), None if the parameter grew.
    """
    old = getattr(layer, name)
    new = nn.Parameter(values.contiguous(), requires_grad=old.requires_grad)
    setattr(layer, name, new)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    if old not in optimizer.state:
        return
    state = optimizer.state.pop(old)
    carried = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.shape != old.shape:
            carried[key] = value  # the step count
        elif key in GRADIENTS or key in SQUARES:
            carried[key] = _grown(value, new, dim, key) if mix is None else _mixed(value, mix, dim, key)
        else:
            return
    optimizer.state[new] = carried


def _grown(value: Tensor, new: Tensor, dim: int, key: str) -> Tensor:
    extra = value.mean(dim=dim, keepdim=True) if key in SQUARES else value.narrow(dim, 0, 1) * 0
    return torch.cat([value, extra.repeat_interleave(new.shape[dim] - value.shape[dim], dim)], dim)


def _mixed(value: Tensor, mix: Tensor, dim: int, key: str) -> Tensor:
    mix = mix.to(value.device, value.dtype)
    mix = mix.square() if key in SQUARES else mix
    return (mix @ value if dim == 0 else value @ mix).contiguous()
