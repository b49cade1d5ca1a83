"""How long, how fast and in which steps to train.

TrainingConfig       the settings of a run, checked when they are made
warmup_then_decay    the learning rate over a run, as a factor between 0 and 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run.

    epochs: passes over the training data.
    batch_size: examples in one forward pass; accumulation_steps: forward passes in one optimizer step.
    learning_rate: the highest, reached after warm-up. Builds the default optimizer; an optimizer you pass has its own.
    weight_decay: of the default AdamW, on matrices only.
    warmup_fraction: the fraction of all steps over which the rate rises from 0.
    schedule: what it does then: "linear" or "cosine" fall to 0 at the last step, "constant" stays.
    max_grad_norm: longer gradients are shortened to this; None leaves them.
    evaluations_per_epoch: evenly spaced; the last one falls on the end of the epoch.
    patience: stop after so many evaluations in a row without a new best, and put the best back; None trains to the end
        and keeps what is there.
    checkpoint_every: steps between checkpoints, besides the one at each evaluation or end of an epoch.

    Raises ValueError or TypeError naming the field that is wrong and what would be right.
    """

    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    schedule: str = "linear"
    max_grad_norm: float | None = 1.0
    accumulation_steps: int = 1
    seed: int = 0
    evaluations_per_epoch: int = 1
    patience: int | None = None
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation_steps", "evaluations_per_epoch"):
            _whole(name, getattr(self, name), least=1)
        for name in ("patience", "checkpoint_every"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), least=1)
        _whole("seed", self.seed, least=0)
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, which is as far as NumPy goes, got {self.seed}")
        _number("learning_rate", self.learning_rate)
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}; LoRA often wants 1e-4 to 2e-3")
        _number("weight_decay", self.weight_decay)
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}")
        _number("warmup_fraction", self.warmup_fraction)
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(f"warmup_fraction is a fraction of all steps, 0 to 1, got {self.warmup_fraction}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}; "
                "for your own, pass a function as fit(schedule=…)"
            )
        if self.max_grad_norm is not None:
            _number("max_grad_norm", self.max_grad_norm)
            if self.max_grad_norm <= 0:
                raise ValueError(f"max_grad_norm must be above 0, or None for no clipping, got {self.max_grad_norm}")


def warmup_then_decay(step: int, total_steps: int, warmup_steps: int, kind: str) -> float:
    """The factor on the learning rate for the step after `step` others.

    It rises linearly from 0 over `warmup_steps`, then stays ("constant") or falls to 0 at `total_steps`, in a line or
    half a cosine wave. The values are those of transformers' get_linear_schedule_with_warmup and its relatives, so with
    warm-up the very first step has rate 0. Raises ValueError for another `kind`.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"kind must be one of {', '.join(SCHEDULES)}, got {kind!r}")
    if step < warmup_steps:
        return step / warmup_steps
    if kind == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)  # 0 after warm-up, 1 at the end
    return max(0.0, 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done)))


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
