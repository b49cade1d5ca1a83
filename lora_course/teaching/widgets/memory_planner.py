"""What will a training step need, and on which card does it fit?

`lora_course.memory.plan` runs the model's own code on tensors without contents; this draws its answer against the
memory of cards and of this machine. Plans take from a second to a minute, so a button makes them, and each is made
once. Small models can be measured too: predicted beside measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ipywidgets as w
import torch

from lora_course.adapters import METHODS
from lora_course.adapters.config import ALL_LINEAR, AdapterConfig
from lora_course.memory import MemoryPlan, StepMemory, plan
from lora_course.memory.models import MODELS
from lora_course.memory.packed import QUANTIZED
from lora_course.memory.plan import OPTIMIZERS
from lora_course.memory.real import take_step
from lora_course.tables import in_units
from lora_course.teaching.widgets.memory_picture import CARDS, Asked, Largest, draw, size_of, waiting
from lora_course.teaching.widgets.panel import Panel
from lora_course.teaching.widgets.svg import Picture

QUERY_AND_VALUE = {"bert": ["query", "value"], "gpt": ["c_attn"]}  # by how a model's name begins; GPT-2 has one for all
MEASURABLE = 2 * 2**30  # bytes of a planned peak that a laptop can spare
MOST = {"batch": 1024, "rank": 1024}  # the largest that is tried
PLANS: dict[Asked, MemoryPlan | str] = {}  # of all widgets of this kernel


def arguments(asked: Asked) -> tuple[str, AdapterConfig | None, dict]:
    """As `plan` and `take_step` want them. Raises ValueError for settings that no adapter has."""
    adapter = None
    if asked.method != "full":
        begins = "bert" if asked.model in ("minilm", "bert-base", "bert-large") else asked.model[:3]
        names = QUERY_AND_VALUE.get(begins, ["q_proj", "v_proj"])
        adapter = AdapterConfig(asked.method, asked.rank, target_modules=ALL_LINEAR if asked.all_linear else names)
    names = ("batch", "sequence", "optimizer", "checkpointing", "quantization")
    situation = {name: getattr(asked, name) for name in names}
    return asked.model, adapter, situation | {"dtype": getattr(torch, asked.dtype)}


def planned(asked: Asked) -> MemoryPlan | str:
    """The plan, made once; or, for settings that make no sense, the sentence that says why."""
    if asked not in PLANS:
        try:
            model, adapter, situation = arguments(asked)
            PLANS[asked] = plan(model, adapter, **situation)
        except ValueError as error:
            PLANS[asked] = str(error)
    return PLANS[asked]


def measured(asked: Asked) -> StepMemory:
    model, adapter, situation = arguments(asked)
    return take_step(model, adapter, **situation)


def not_measurable(asked: Asked, outcome: MemoryPlan) -> str:
    """Why the step is not taken for real; empty if it can be."""
    if outcome.peak > MEASURABLE:
        return f"Only steps of up to {in_units(MEASURABLE)} are measured here; this one needs {in_units(outcome.peak)}."
    if asked.dtype != "float32" or asked.quantization:
        return "Only steps in float32 without quantization are measured here: a CPU is slow at all others."
    return ""


def largest_that_fits(peak: Callable[[int], int], limit: int, most: int) -> int | None:
    """The largest n from 1 to `most` with peak(n) <= limit, None if there is none. peak must not fall as n grows.

    Goes along the straight line between the last n that fits and the first that does not, as memory nearly does, and
    halves in between, so that few plans are made.
    """
    if peak(1) > limit:
        return None
    if peak(most) <= limit:
        return most
    fits, fails, halve = 1, most, False
    while fails - fits > 1:
        share = 0.5 if halve else (limit - peak(fits)) / (peak(fails) - peak(fits))
        n = min(max(fits + int(share * (fails - fits)), fits + 1), fails - 1)
        if peak(n) <= limit:
            fits, halve = n, n - fits < (fails - fits) // 4 and not halve
        else:
            fails, halve = n, False
    return fits


def largest(asked: Asked, what: str, card: str) -> Largest | str:
    """The largest batch or rank (`what`) that fits on the card, all else as asked; or why there is no telling."""

    def peak(n: int) -> int:
        outcome = planned(replace(asked, **{what: n}))
        if isinstance(outcome, str):
            raise ValueError(outcome)
        return outcome.peak

    try:
        if peak(1) == peak(MOST[what]):
            return f"The {what} makes no difference to the memory of this step."
        return Largest(what, largest_that_fits(peak, size_of(card), MOST[what]), MOST[what])
    except ValueError as error:
        return str(error)


def static() -> Picture:
    """LoRA on the packaged encoder: planned as the lesson runs."""
    asked = Asked("minilm", "lora", 8, True, "float32", "adamw", 16, 64, False, None)
    return draw(asked, planned(asked), "8 GB")


def explore() -> Panel:
    """The widget. Changing a control shows a plan at once if it was made before; the buttons make what is missing."""
    measurements: dict[Asked, StepMemory] = {}
    limits: dict[tuple[Asked, str], dict[str, Largest]] = {}  # by settings and card

    def picture_of(card: str, **settings) -> Picture:
        asked = Asked(**settings)
        if asked not in PLANS:
            return waiting(asked)
        found = tuple(limits.get((asked, card), {}).values())
        return draw(asked, PLANS[asked], card, measurements.get(asked), found)

    buttons = {name: w.Button(description=name) for name in ("Plan", "Largest batch", "Largest rank", "Measure it")}
    panel = Panel(picture_of, tuple(buttons.values()), **_controls())

    def press(name: str) -> None:
        state = panel.values()
        card = state.pop("card")
        asked, problem = Asked(**state), ""
        panel.say("Planning ...")
        with panel.errors_shown():
            outcome = planned(asked)
            if isinstance(outcome, str) or name == "Plan":
                pass
            elif name == "Measure it":
                problem = not_measurable(asked, outcome)
                if not problem:
                    measurements[asked] = measured(asked)
            else:
                what = name.removeprefix("Largest ")
                answer = largest(asked, what, card)
                if isinstance(answer, str):
                    problem = answer
                else:
                    limits.setdefault((asked, card), {})[what] = answer
        panel.update()
        if problem:
            panel.say(problem)

    for name, button in buttons.items():
        button.on_click(lambda _, name=name: press(name))
    return panel


def _controls() -> dict[str, w.Widget]:
    powers = [2**i for i in range(11)]
    return {
        "model": w.Dropdown(options=list(MODELS), value="minilm", description="Model"),
        "method": w.Dropdown(options=["full", *METHODS], value="lora", description="Method"),
        "rank": w.SelectionSlider(options=powers[:9], value=8, description="Rank"),
        "all_linear": w.Dropdown(
            options=[("all linear layers", True), ("query and value", False)], description="Layers adapted"
        ),
        "dtype": w.Dropdown(options=["float32", "bfloat16"], description="Numbers"),
        "optimizer": w.Dropdown(options=list(OPTIMIZERS), description="Optimizer"),
        "batch": w.SelectionSlider(options=powers[:8], value=16, description="Batch"),
        "sequence": w.SelectionSlider(options=[16, 32, *powers[6:], 2048, 4096], value=64, description="Tokens each"),
        "checkpointing": w.Checkbox(False, description="Checkpointing", indent=False),
        "quantization": w.Dropdown(options=[("none", None), *((q, q) for q in QUANTIZED)], description="Quantized"),
        "card": w.Dropdown(options=list(CARDS), value="8 GB", description="Must fit in"),
    }
