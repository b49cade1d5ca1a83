"""The memory of a training step, measured while it runs: forward, backward, optimizer step.

    parameters, buffers     the model's own; a storage that two tensors share counts once
    gradients               what backward left in .grad
    optimizer state         what the optimizer keeps from one step to the next
    saved for backward      what autograd holds at the end of the forward pass, weights excluded (saved.py)
    peak                    the most bytes of tensors alive at any moment, weights and batch included (live.py)
It is the second step, or any later one: in the first, forward and backward still do without the optimizer's state,
which flatters the peak. The sizes of tensors are exact, on the CPU as on a GPU; there the allocator's own peak stands
beside ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lora_course.adapters.optimizers import make_optimizer
from lora_course.memory.live import LiveBytes, allocator_peak, storage_bytes
from lora_course.memory.saved import SavedTensors
from lora_course.tables import html_table, in_units, text_table


@dataclass(frozen=True, repr=False)
class StepMemory:
    """Bytes of a training step, the optimizer's state being there from the start.

    saved_by_module: module name -> bytes, for the module that saved a storage first.
    phase_peaks: the most bytes alive during "forward", "backward" and "optimizer step".
    allocator_peak: what CUDA's allocator handed out at most; None on other devices.
    Prints as a table; a notebook shows the same table.
    """

    parameters: int
    buffers: int
    gradients: int
    optimizer_state: int
    saved_by_module: dict[str, int]
    phase_peaks: dict[str, int]
    device: str
    allocator_peak: int | None = None

    @property
    def peak(self) -> int:
        """The most bytes of tensors that were alive at once: what must fit."""
        return max(self.phase_peaks.values())

    @property
    def saved(self) -> int:
        """Bytes that autograd keeps for the backward pass, each storage once, weights excluded."""
        return sum(self.saved_by_module.values())

    def saved_by_kind(self) -> dict[str, int]:
        """The same by kind of module, layer numbers left out: encoder.layer.*.attention … -> bytes, largest first."""
        kinds: Counter[str] = Counter()
        for module, size in self.saved_by_module.items():
            kinds[re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)] += size
        return dict(kinds.most_common())

    def rows(self) -> list[tuple[str, int]]:
        """What and how many bytes, for tables and figures."""
        rows = [
            ("parameters", self.parameters),
            ("buffers", self.buffers),
            ("gradients", self.gradients),
            ("optimizer state", self.optimizer_state),
            ("saved for backward", self.saved),
            ("peak of the step", self.peak),
        ]
        return rows if self.allocator_peak is None else [*rows, ("peak of CUDA's allocator", self.allocator_peak)]

    def _table(self) -> list[tuple[str, str, str]]:
        cells = [(name, in_units(size), f"{size:,}") for name, size in self.rows()]
        return [(f"a training step, {self.device}", "", "bytes"), *cells]

    def __repr__(self) -> str:
        return text_table(self._table())

    def _repr_html_(self) -> str:
        return html_table(self._table())


def model_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a transformers model computes from its labels."""
    return model(**batch).loss


def measure(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor] = model_loss,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> StepMemory:
    """Take a training step and say what it needs. The model is left as it was found, but for .grad, which is None.

    batch: what `loss` takes, on the model's device; its tensors are part of the peak.
    loss(model, batch) -> scalar, the model's own by default. For a layer alone:
        measure(layer, x, loss=lambda layer, x: layer(x).sum())
    optimizer(model) -> optimizer; AdamW over the trainable parameters by default, none where nothing is trainable.
        Every trainable parameter is taken to have its state, also one that the loss does not reach.

    Modules stay in the mode they are in: call model.train() first if you want dropout. The step draws random numbers
    like any other and puts the generators back. Gradients are cleared first: an accumulation in progress is lost.

    Raises ValueError if the loss is not one number.
    """
    parameters, buffers = [*model.parameters()], [*model.buffers()]
    weights = [*parameters, *buffers]
    device = next((t.device for t in weights), torch.device("cpu"))
    trained = [p for p in parameters if p.requires_grad]
    saved = SavedTensors(weights)
    given = [t for t in tree_leaves(batch) if isinstance(t, Tensor)]
    generators = [device] if device.type == "cuda" else []
    with (
        _left_as_found(model, trained),
        torch.random.fork_rng(devices=generators),
        LiveBytes([*weights, *given]) as live,
    ):
        stepper = _with_state((optimizer or default_optimizer)(model), trained) if trained else None
        state = storage_bytes(_state_tensors(stepper)) if stepper else 0
        live.peak_so_far()  # from here on it counts
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with saved.record(model):
            value = loss(model, batch)
        if not (isinstance(value, Tensor) and value.numel() == 1):
            raise ValueError(f"the loss must be one number, got {_describe(value)}")
        by_module = saved.by_module()
        peaks = {"forward": live.peak_so_far()}
        if value.requires_grad:
            value.backward()
        del value
        peaks["backward"] = live.peak_so_far()
        gradients = storage_bytes(p.grad for p in parameters if p.grad is not None)
        if stepper:
            stepper.step()
        del stepper
        peaks["optimizer step"] = live.peak_so_far()
        peak_of_allocator = allocator_peak(device)
    own = storage_bytes(parameters)
    return StepMemory(
        parameters=own,
        buffers=storage_bytes(weights) - own,
        gradients=gradients,
        optimizer_state=state,
        saved_by_module=by_module,
        phase_peaks=peaks,
        device=str(device),
        allocator_peak=peak_of_allocator,
    )


@contextmanager
def _left_as_found(model: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """After the block, what is trained has the values that it had before, and there are no gradients."""
    model.zero_grad(set_to_none=True)
    before = [p.detach().to("cpu", copy=True) for p in trained if p.device.type != "meta"]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, values in zip(trained, before, strict=False):  # on the meta device there are none
                p.copy_(values)
        model.zero_grad(set_to_none=True)


def _with_state(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer after a step on gradients of zero, which makes the state that it keeps."""
    for p in trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def default_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(model, lr=1e-3)


def _state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
