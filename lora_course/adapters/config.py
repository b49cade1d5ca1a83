"""What to adapt and how: one small dataclass for every method.

The fields are the ones that every method shares. `scaling` turns alpha into the factor in front of B A x:
alpha / rank for LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AdapterConfig:
    """Settings of an adapter.

    method: name of the technique, a key of `lora_course.adapters.METHODS`.
    rank: inner dimension r of the update B A, at least 1.
    alpha: the update is scaled by alpha / rank, so that changing rank does not change its size.
    target_modules: name suffixes of the layers to adapt (["query", "value"]), or "all-linear".
    dropout: probability of zeroing an entry of x on its way into A (never on its way into the base layer).
    trainable: name suffixes of modules to train whole, usually the freshly initialised head (["classifier"]).
    seed: of random numbers that a method never saves but makes again: VeRA's shared matrices.

    A method uses the fields that it has a use for, and says so; none has more.
    Raises ValueError or TypeError naming the field that is wrong and what would be right.
    """

    method: str = "lora"
    rank: int = 8
    alpha: float = 16
    target_modules: str | Sequence[str] = ALL_LINEAR
    dropout: float = 0.0
    trainable: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int):
            raise TypeError(f"rank must be a whole number, got {self.rank!r}")
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}: rank 0 would leave nothing to train")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float):
            raise TypeError(f"alpha must be a number, got {self.alpha!r}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(
                f"alpha must be positive and finite, got {self.alpha}: the update is scaled by alpha / rank"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is a probability in [0, 1), got {self.dropout}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number, 0 or more, got {self.seed!r}")
        if isinstance(self.target_modules, str):
            if self.target_modules != ALL_LINEAR:
                raise ValueError(
                    f"target_modules must be {ALL_LINEAR!r} or a list of name suffixes; "
                    f"did you mean [{self.target_modules!r}]?"
                )
        else:
            object.__setattr__(self, "target_modules", _names("target_modules", self.target_modules))
            if not self.target_modules:
                raise ValueError(f"target_modules is empty: name at least one layer, or use {ALL_LINEAR!r}")
        object.__setattr__(self, "trainable", _names("trainable", self.trainable))

    @property
    def scaling(self) -> float:
        """The factor s in h = W x + s B A x."""
        return self.alpha / self.rank


def _names(field: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"{field} must be a list of names; did you mean [{value!r}]?")
    names = tuple(value)
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"{field} must hold non-empty strings, got {list(names)!r}")
    return names
