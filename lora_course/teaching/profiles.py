"""How big a run may be: one word, chosen once, that every lesson asks for.

    smoke   seconds: does the notebook run from top to bottom?
    cpu     minutes on two cores: the numbers that the solutions show
    full    what a GPU is for
LORA_COURSE_PROFILE names one of them; where it is unset, a CUDA device means full and anything else means cpu.
"""

from __future__ import annotations

import os
from typing import TypeVar

import torch

PROFILES = ("smoke", "cpu", "full")
T = TypeVar("T")


def current_profile() -> str:
    """The profile in force: "smoke", "cpu" or "full". Raises ValueError if LORA_COURSE_PROFILE names another."""
    chosen = os.environ.get("LORA_COURSE_PROFILE", "").strip()
    if not chosen:
        return "full" if torch.cuda.is_available() else "cpu"
    if chosen not in PROFILES:
        raise ValueError(f"LORA_COURSE_PROFILE is {chosen!r}; it must be one of {', '.join(PROFILES)}, or unset")
    return chosen


def by_profile(*, smoke: T, cpu: T, full: T) -> T:
    """The value for the profile in force: `steps = by_profile(smoke=2, cpu=200, full=5000)`."""
    return {"smoke": smoke, "cpu": cpu, "full": full}[current_profile()]
