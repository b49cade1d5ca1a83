"""From a few layers to all: exact where it is a straight line, and never used where it might not be one.

Parameters, gradients, optimizer state and saved bytes grow by the same amount with each layer. So does the peak of a
phase, as long as it falls on the same moment of it. It is the largest of several straight lines, so its slope can only
grow with the layers; and in the backward pass no line is steeper than one layer's weights and optimizer state with
either all that it saves or all its gradients, since it gives up the former as it makes the latter. A plan that is on
this steepest line stays on it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FEW = (2, 3, 4)


def in_layers(config: PretrainedConfig, plan: Callable[[Any], Any]) -> Any:
    """plan(config), from the plans of 2, 3 and 4 layers if these are on the lines that lead there; else in full."""
    layers = config.num_hidden_layers
    if layers <= 2 * FEW[-1]:
        return plan(config)
    few = [plan(with_layers(config, n)) for n in FEW]
    return extended(few, layers) if on_lines(few) else plan(config)


def with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers  # GPT-2's n_layer is this, too
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:layers]
    return config


def numbers(plan: Any) -> dict[str, int]:
    """All that is extrapolated, by name."""
    fields = ("parameters", "buffers", "gradients", "optimizer_state", "trained_numbers", "all_numbers", "saved")
    return {name: getattr(plan, name) for name in fields} | plan.phase_peaks


def on_lines(few: list[Any]) -> bool:
    """Whether three plans of one layer more each lie on straight lines that stay the steepest."""
    a, b, c = (numbers(plan) for plan in few)
    straight = all(c[name] - b[name] == b[name] - a[name] for name in a)
    slope = {name: c[name] - b[name] for name in a}
    there = slope["parameters"] + slope["buffers"] + slope["optimizer_state"]  # all the time
    return (
        straight
        and slope["forward"] >= there + slope["saved"]
        and slope["backward"] >= there + max(slope["saved"], slope["gradients"])
        and slope["optimizer step"] >= there + slope["gradients"]
    )


def extended(few: list[Any], layers: int) -> Any:
    """The plan of so many layers, on the line through the last two."""
    b, c = (numbers(plan) for plan in few[-2:])
    at = {name: c[name] + (c[name] - b[name]) * (layers - FEW[-1]) for name in c}
    saved = dict(few[-1].saved_by_module)
    saved["(further layers)"] = at["saved"] - few[-1].saved
    peaks = {phase: at[phase] for phase in few[-1].phase_peaks}
    own = {name: at[name] for name in ("parameters", "buffers", "gradients", "optimizer_state")}
    counts = {name: at[name] for name in ("trained_numbers", "all_numbers")}
    return replace(few[-1], **own, **counts, saved_by_module=saved, phase_peaks=peaks)
