"""What a search chooses from, and what all of its trials share.

Space    the choices: learning rate (log-uniform), rank, alpha / rank, targets, method, schedule
Plan     model, data, sizes, metric, seed, sampler, pruner, space; goes into the study, so that all machines agree
suggest  one trial's choices          DEFAULT   the course's own choices, which a search has to beat
inject_choices   a model with these choices injected
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from lora_course.adapters import METHODS
from lora_course.adapters.config import ALL_LINEAR, AdapterConfig
from lora_course.adapters.inject import inject
from lora_course.experiments import recipes
from lora_course.training.config import SCHEDULES, TrainingConfig

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "halving", "none")
METRICS = ("loss", "accuracy", "f1")
TARGETS = ("query+value", "attention", "mlp", ALL_LINEAR)
NEED_MORE = ("delta_lora", "adalora")  # hooks with settings of their own, which no space here has
DEFAULT = {
    "learning_rate": 1e-3,
    "rank": 8,
    "scale": 2.0,
    "targets": ALL_LINEAR,
    "method": "lora",
    "schedule": "linear",
}


@dataclass(frozen=True)
class Space:
    """Choices for each name; one choice fixes it.

    learning_rate: lowest and highest; drawn so that each factor of ten is as likely as any other.
    scale: alpha / rank, not alpha: with alpha, every other rank would be a different size of step too.
    targets: query+value, attention, mlp or all-linear, by the names that BERT's relatives use.

    Raises ValueError naming what is wrong and what would be right.
    """

    learning_rate: tuple[float, float] = (1e-4, 1e-2)
    rank: tuple[int, ...] = (2, 4, 8, 16, 32)
    scale: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    targets: tuple[str, ...] = TARGETS
    method: tuple[str, ...] = ("lora", "dora", "pissa")
    schedule: tuple[str, ...] = SCHEDULES

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, str) or not len(value):
                raise ValueError(f"{name} must be a list of choices, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        low, high = self.learning_rate if len(self.learning_rate) == 2 else (0, 0)
        if not 0 < low <= high:
            raise ValueError(f"learning_rate must be (lowest, highest), both above 0, got {self.learning_rate}")
        if min(self.rank) < 1 or min(self.scale) <= 0:
            raise ValueError(f"ranks are 1 or more and scales above 0, got {self.rank} and {self.scale}")
        known = [name for name in METHODS if name not in NEED_MORE]
        for name, choices in (("targets", TARGETS), ("method", known), ("schedule", SCHEDULES)):
            if wrong := [value for value in getattr(self, name) if value not in choices]:
                raise ValueError(f"{name} cannot be {', '.join(wrong)}; there are {', '.join(choices)}")


@dataclass(frozen=True)
class Plan:
    """What all trials of a study share.

    train, validation: so many reviews, the first of each split. The test split is not looked at.
    max_words: only reviews of at most so many words; None: all.
    evaluations: of the validation split in each epoch, evenly spaced; a trial may be pruned after each but the last.
    metric: what the last evaluation is judged by; loss is the lower the better, accuracy and f1 the higher.
    seed: of the sampler, and of every trial's head, adapters and order of the data: trials differ in nothing but their
        choices.
    default_first: trial 0 is DEFAULT, so that it takes part in the comparison.
    """

    model: str = "packaged"
    data: str = "rotten_tomatoes"
    train: int = 640
    validation: int = 200
    max_words: int | None = None
    epochs: int = 1
    batch_size: int = 16
    evaluations: int = 4
    metric: str = "loss"
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    max_length: int = 128
    default_first: bool = True
    space: Space = field(default_factory=Space)

    def __post_init__(self) -> None:
        for name, choices in (("metric", METRICS), ("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("train", "validation", "max_words"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        training_config(self, DEFAULT, self.seed)  # checks the rest

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["space"] = {name: list(value) for name, value in plain["space"].items()}
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Raises TypeError for unknown fields, ValueError for wrong values."""
        return cls(**{**data, "space": Space(**data.get("space", {}))})


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """This trial's choices: a dict like DEFAULT. Writes them into the study one by one."""
    low, high = space.learning_rate
    chosen = {"learning_rate": trial.suggest_float("learning_rate", low, high, log=True)}
    for name in ("rank", "scale", "targets", "method", "schedule"):
        chosen[name] = trial.suggest_categorical(name, getattr(space, name))
    return chosen


def inside(choices: Mapping[str, Any], space: Space) -> bool:
    """Whether the space has these choices."""
    low, high = space.learning_rate
    others = all(choices[name] in getattr(space, name) for name in choices if name != "learning_rate")
    return others and low <= choices["learning_rate"] <= high


def training_config(plan: Plan, choices: Mapping[str, Any], seed: int) -> TrainingConfig:
    return TrainingConfig(
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        learning_rate=choices["learning_rate"],
        schedule=choices["schedule"],
        evaluations_per_epoch=plan.evaluations,
        seed=seed,
    )


def inject_choices(model: nn.Module, choices: Mapping[str, Any], seed: int) -> nn.Module:
    """Inject in place, the head trained whole. Raises ValueError where the model has no such layers."""
    config = AdapterConfig(
        choices["method"],
        choices["rank"],
        choices["scale"] * choices["rank"],
        target_names(model, choices["targets"]),
        trainable=["classifier"],
        seed=seed,
    )
    return inject(model, config)


def target_names(model: nn.Module, targets: str) -> str | list[str]:
    """What AdapterConfig calls these targets in this model.

    Raises ValueError if the model has no such layers, saying which parts of names were looked for.
    """
    if targets == ALL_LINEAR:
        return ALL_LINEAR
    try:
        return recipes.target_names(model, targets.replace("+", "-"))
    except ValueError:
        raise ValueError(
            f"{targets}: {type(model).__name__} has no such layers; they are told by .layer. and .attention. in "
            "their names, as in BERT. Search over all-linear alone"
        ) from None
