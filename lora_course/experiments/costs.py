"""What a configuration costs beside plain LoRA: bytes of one training step, and the times of steps and forward passes.

In each round all that is timed takes a turn, beginning with another each time, so that a slow moment of the machine
falls on all alike:  a training step of this one, one of LoRA, and forward passes of this one, of this one merged, and
of the plain model. Rounds to warm up come first and are thrown away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn

from lora_course.adapters.inject import merge
from lora_course.adapters.optimizers import make_optimizer
from lora_course.adapters.report import parameter_report
from lora_course.experiments.recipes import FULL, Configuration, prepare
from lora_course.experiments.statistics import median_ratio
from lora_course.memory import measure
from lora_course.products import as_torch_multiplies
from lora_course.training.batching import pad_collate
from lora_course.training.metrics import synchronize
from lora_course.training.sentiment import tokenize_reviews

WARM_UP_ROUNDS = 3
STEP, REFERENCE_STEP, UNMERGED, MERGED, PLAIN = "step", "reference step", "unmerged", "merged", "plain"


@dataclass(frozen=True)
class Cost:
    """saved_bytes: kept for the backward pass, weights left out.  state_bytes: gradients and the optimizer's state.
    peak_bytes: of all tensors alive at once, weights included.  seconds: what was timed -> one number for each round;
    MERGED is missing where there is nothing to merge, or no way to.
    """

    trained: int
    saved_bytes: int
    state_bytes: int
    peak_bytes: int
    seconds: dict[str, list[float]]

    def measured(self) -> dict[str, float]:
        """For a history: bytes, and times as medians of ratios within a round."""
        numbers = {"saved_bytes": self.saved_bytes, "state_bytes": self.state_bytes, "peak_bytes": self.peak_bytes}
        numbers["step_ratio"] = median_ratio(self.seconds[STEP], self.seconds[REFERENCE_STEP])
        numbers["unmerged_ratio"] = median_ratio(self.seconds[UNMERGED], self.seconds[PLAIN])
        if MERGED in self.seconds:
            numbers["merged_ratio"] = median_ratio(self.seconds[MERGED], self.seconds[PLAIN])
        return numbers


def cost_of(
    chosen: Configuration, reference: Configuration, settings: Any, reviews: Any, load: Callable[[], tuple[Any, Any]]
) -> Cost:
    """settings: with batch_size and rounds. reviews: the first batch of them is used, for everything."""
    rounds = WARM_UP_ROUNDS + settings.rounds
    plain, tokenizer = _fresh(load)
    device = next(plain.parameters()).device
    tokenized = tokenize_reviews(reviews.select(range(min(settings.batch_size, len(reviews)))), tokenizer)
    batch = pad_collate([tokenized[i] for i in range(len(tokenized))], tokenizer.pad_token_id)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    ours, optimizer = prepare(chosen.method, _fresh(load)[0], chosen.recipe, rounds, seed=0)
    theirs, other = prepare(reference.method, _fresh(load)[0], reference.recipe, rounds, seed=0)
    memory = measure(ours.train(), batch, optimizer=lambda model: _optimizer(model, chosen))
    timed = {
        STEP: _step(ours, optimizer, batch),
        REFERENCE_STEP: _step(theirs, other, batch),
        UNMERGED: _forward(ours, batch),
        PLAIN: _forward(plain, batch),
    }
    if chosen.method != FULL:
        with suppress(ValueError):  # bottlenecks, and a base that is packed
            timed[MERGED] = _forward(merge(copy.deepcopy(ours)), batch)
    with as_torch_multiplies():  # full fine-tuning and half of the methods have no other library
        seconds = in_turn(timed, rounds, device)
    return Cost(
        parameter_report(ours).trainable,
        memory.saved,
        memory.gradients + memory.optimizer_state,
        memory.peak,
        {name: found[WARM_UP_ROUNDS:] for name, found in seconds.items()},
    )


def in_turn(timed: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Call each once in every round, beginning with another each time: name -> seconds of each round."""
    names = [*timed]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            synchronize(device)
            began = perf_counter()
            timed[name]()
            synchronize(device)
            seconds[name].append(perf_counter() - began)
    return seconds


def _fresh(load: Callable[[], tuple[Any, Any]]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return load()


def _optimizer(model: nn.Module, chosen: Configuration) -> torch.optim.Optimizer:
    return make_optimizer(model, chosen.recipe.learning_rate, chosen.recipe.optimizer)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        model.train()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _forward(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    def forward() -> None:
        model.eval()
        with torch.no_grad():
            model(**batch)

    return forward
