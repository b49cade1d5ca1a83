"""Decide the ranks of LoRA layers while they train.

When: the mean loss of a window of steps is compared with the window before, relative to itself, so that the rule means
the same for a loss of 5 and of 0.05. Where: by the singular values of each layer's change. How much: within a budget
of parameters. Two thresholds with a gap between them, and patience, keep ranks from going up and down (hysteresis).
Our own rule, in the spirit of AdaLoRA's budget (arXiv:2303.10512), with `resize_rank` doing the work.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.adapters.resize import lora_layers, resize_rank, singular_values


class RankController:
    """Fits ranks to how training goes. Call `update(loss)` after every optimizer step, or give it to `fit` as one of
    its callbacks: then checkpoints hold the ranks too.

        improvement = (mean loss of the window before - of this window) / |the former|
    below `stalled`: each layer that uses all its ranks gets `step` more while the budget lasts, flattest spectrum first
    above `fast`: the ranks are enough; each layer gives up those of little use
    between the two, or before `patience` windows in a row say the same: nothing

    Of little use are the smallest singular values that make up at most `tolerance` of the squared sum of all.
    budget: the most parameters that all A and B may have together.

    Raises ValueError if there is no LoRA layer, the layers are over budget, or a setting makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        budget: int,
        step: int = 2,
        window: int = 20,
        stalled: float = 0.01,
        fast: float = 0.05,
        patience: int = 2,
        tolerance: float = 0.01,
    ):
        self.layers, self.optimizer = lora_layers(model), optimizer
        if not stalled < fast:
            raise ValueError(f"stalled must be below fast, or ranks would go up and down for ever: {stalled}, {fast}")
        if min(step, window, patience) < 1 or not 0 <= tolerance < 1:
            raise ValueError(
                "step, window and patience must be at least 1 and tolerance in [0, 1): "
                f"got {step}, {window}, {patience} and {tolerance}"
            )
        if self.parameters() > budget:
            raise ValueError(f"the layers begin with {self.parameters()} parameters, over the budget of {budget}")
        self.budget, self.step, self.window, self.patience = budget, step, window, patience
        self.stalled, self.fast, self.tolerance = stalled, fast, tolerance
        self.losses: list[float] = []
        self.before: float | None = None
        self.streak = 0  # windows in a row: stalled ones count up from 0, fast ones down

    def ranks(self) -> dict[str, int]:
        return {name: layer.config.rank for name, layer in self.layers.items()}

    def parameters(self) -> int:
        return sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in self.layers.values())

    def __call__(self, row: Any) -> None:
        """row: what has the step's `loss`, such as training's StepRow."""
        self.update(row.loss)

    def update(self, loss: float) -> dict[str, int]:
        """Returns the layers that changed, with their new ranks. Raises ValueError if the loss is not finite."""
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss}: no rank will mend that")
        self.losses.append(float(loss))
        if len(self.losses) < self.window:
            return {}
        now, before = sum(self.losses) / self.window, self.before
        self.losses, self.before = [], now
        if before is None:
            return {}
        improvement = (before - now) / abs(before) if before else 0.0
        if improvement < self.stalled:
            self.streak = max(self.streak, 0) + 1
        elif improvement > self.fast:
            self.streak = min(self.streak, 0) - 1
        else:
            self.streak = 0
        if abs(self.streak) < self.patience:
            return {}
        wanted = self._grown() if self.streak > 0 else self._shrunk()
        changed = {name: rank for name, rank in wanted.items() if rank != self.layers[name].config.rank}
        for name, rank in changed.items():
            resize_rank(self.layers[name], rank, self.optimizer)
        self.streak, self.before = 0, None if changed else now  # after a change nothing is compared with before it
        return changed

    def _shrunk(self) -> dict[str, int]:
        return {name: needed_rank(singular_values(layer), self.tolerance) for name, layer in self.layers.items()}

    def _grown(self) -> dict[str, int]:
        values = {name: singular_values(layer) for name, layer in self.layers.items()}
        full = [name for name, v in values.items() if needed_rank(v, self.tolerance) == self.layers[name].config.rank]
        wanted, left = self.ranks(), self.budget - self.parameters()
        for name in sorted(full, key=lambda n: float(values[n][-1] / values[n][0].clamp_min(1e-300)), reverse=True):
            layer = self.layers[name]
            cost = layer.in_features + layer.out_features
            room = min(layer.in_features, layer.out_features) - wanted[name]
            more = max(0, min(self.step, room, left // cost))
            wanted[name] += more
            left -= more * cost
        return wanted

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": self.ranks(), "losses": [*self.losses], "before": self.before, "streak": self.streak}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give the layers the saved ranks and go on counting. Load model and optimizer after this, so that they fit.

        Raises ValueError, before anything is changed, for another model's state.
        """
        if state["ranks"].keys() != self.layers.keys():
            raise ValueError(f"this state is for {sorted(state['ranks'])}, the model has {sorted(self.layers)}")
        for name, rank in state["ranks"].items():
            resize_rank(self.layers[name], rank, self.optimizer)
        self.losses, self.before, self.streak = [*state["losses"]], state["before"], state["streak"]


def needed_rank(values: Tensor, tolerance: float) -> int:
    """The smallest rank, at least 1, at which the singular values left out have at most this share of the squared sum.

    values: largest first. If all are 0 nothing has been learned yet, and nothing is cut.
    """
    energy = values.square()
    if not energy.sum() > 0:
        return len(values)
    left_out = energy.flip(0).cumsum(0).flip(0) / energy.sum()  # [k]: the share of all from the k-th on
    return max(1, int((left_out > tolerance).sum()))
