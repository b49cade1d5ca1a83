"""Checkpointing: keep the input of each block, and compute the inside of the block again in the backward pass.

A transformer of L blocks keeps L times some dozens of tensors for backward. With checkpointed blocks it keeps L inputs,
and the inside of one block at a time, for one more forward pass (Chen et al. 2016, arXiv:1604.06174): about a third of
a step where everything is trained, about half of one where the base is frozen and its weights need no gradients.
    checkpoint_blocks(model)              every block        checkpoint_blocks(model, every=2)    every other one
    undo_checkpointing(model)             back as it was
It is torch's non-reentrant checkpoint: the reentrant one gives no gradients to a block whose input needs none, and that
is the first block of every model with a frozen embedding. Random numbers are drawn again, so dropout is the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_course.adapters.base import Adapter


def checkpoint_blocks(model: nn.Module, every: int = 1) -> list[str]:
    """Checkpoint every `every`-th block of a model in place, starting with the first; returns their names.

    Blocks are what `find_blocks` finds. They are computed as before wherever no gradient is asked for. Gradients are
    the same, and adapters may be injected before or after. Parameters, names and state_dict do not change.
    A block must compute the same twice: no caches that it writes, no statistics that it updates (BatchNorm's).

    Raises ValueError if there are no blocks, if one is checkpointed already, by us or by transformers, or has a forward
    of its own; in the backward-recording forward pass, for a key and value cache that is not empty.
    """
    if every < 1:
        raise ValueError(f"every is 1 for every block, 2 for every other one, and so on; got {every}")
    chosen = [name for names in find_blocks(model) for name in names[::every]]
    if not chosen:
        raise ValueError(
            f"found no blocks in {type(model).__name__}: blocks are the members of an nn.ModuleList that are made of "
            "several modules; put your repeated layers into one"
        )
    blocks = [model.get_submodule(name) for name in chosen]
    for name, block in zip(chosen, blocks, strict=True):
        if problem := _problem(block):
            raise ValueError(f"{name} {problem}")
    for block in blocks:
        block.forward = partial(_recomputed, block)
    return chosen


def undo_checkpointing(model: nn.Module) -> list[str]:
    """Take back what `checkpoint_blocks` did; returns the names of the blocks. Raises ValueError if it did nothing."""
    ours = {name: module for name, module in model.named_modules() if _is_ours(module)}
    if not ours:
        raise ValueError(f"no block of this {type(model).__name__} is checkpointed by checkpoint_blocks")
    for block in ours.values():
        del block.forward  # of the object: the one of its class shows again
    return [*ours]


def find_blocks(model: nn.Module) -> list[list[str]]:
    """Names of a model's blocks, a list for each stack of them (T5 has two).

    A stack is an nn.ModuleList, not inside another stack, all of whose members are made of other modules. A list of
    plain layers, adapted or not, is no stack: to checkpoint them one by one would save next to nothing.
    """
    stacks: list[str] = []
    for name, module in model.named_modules():
        inside = any(stack == "" or name.startswith(f"{stack}.") for stack in stacks)
        if not inside and isinstance(module, nn.ModuleList) and len(module) and all(map(_is_block, module)):
            stacks.append(name)
    named = dict(model.named_modules())  # a block that stands in two places has one name here
    return [
        [n for i in range(len(named[stack])) if (n := f"{stack}.{i}".lstrip(".")) in named] for stack in stacks
    ]


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and not isinstance(module, Adapter)


def _is_ours(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is _recomputed


def _problem(block: nn.Module) -> str:
    """Why a block cannot be checkpointed, as the rest of a sentence that begins with its name; empty if it can."""
    if _is_ours(block):
        return "is checkpointed already: undo_checkpointing(model) takes it back"
    if "forward" in vars(block):
        return "has a forward of its own, set on the object by other code: remove that first"
    if getattr(block, "gradient_checkpointing", False):
        return "is checkpointed by transformers already: call model.activation_checkpointing_disable() first"
    return ""


def _recomputed(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """The forward of a checkpointed block."""
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *inputs, **named)
    inputs = [_without_cache(value) for value in inputs]
    named = {name: _without_cache(value) for name, value in named.items()}
    return checkpoint(forward, block, *inputs, use_reentrant=False, **named)


def _without_cache(value: Any) -> Any:
    """None for an empty cache of keys and values, which transformers hands out unasked; written twice, it goes wrong.

    A stack's first block is always checkpointed, so the cache is still empty there unless the caller filled it.
    """
    if not hasattr(value, "get_seq_length"):
        return value
    if value.get_seq_length():
        raise ValueError(
            "a checkpointed block runs twice and would write into past_key_values twice: call the model without it, or "
            "under torch.no_grad()"
        )
    return None
