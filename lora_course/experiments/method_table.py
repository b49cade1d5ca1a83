"""The README's table of methods: what each trains, keeps for backward, and is held against. Made, never typed.

Numbers are counted and measured on one layer as the command runs; oracle and tolerance are those that the tests read.
The layer has the shape of the packaged encoder's feed-forward layers, where d and k differ.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

from lora_course.adapters import METHODS
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.oracles import FOUR, ORACLES, Oracle
from lora_course.atomic import write_files
from lora_course.memory import measure
from lora_course.tables import markdown_table, put_between

IN, OUT, RANK, ALPHA, TOKENS = 384, 1536, 8, 16, 256
BEGIN, END = "<!-- methods-table: made by lora-course table -->", "<!-- /methods-table -->"
NAMES = {"bert": "BERT", "gpt2": "GPT-2", "llama": "Llama", "t5": "T5"}
NOTE = (
    f"Counted and measured on one Linear layer, d = {IN} in, k = {OUT} out, r = {RANK}, {TOKENS} tokens, float32, "
    "dropout 0, whose input wants a gradient, as all but a first layer's do. Saved is what autograd keeps for the "
    "backward pass, weights left out. LoKr splits d = d1 d2 and k = k1 k2; DyLoRA is at full rank. Each link leads to "
    f"the tests: outputs and gradients, against PEFT on tiny random {', '.join(NAMES[name] for name in FOUR)} unless "
    "it says otherwise, relative to the largest value where that is above 1."
)
HEADER = ["method", "trainable", "here", "saved here", "oracle", "tolerance"]


def methods_table() -> list[list[str]]:
    """A header and one row for each method."""
    return [HEADER, *(row(method) for method in METHODS)]


def row(method: str) -> list[str]:
    oracle, (trained, saved) = ORACLES[method], costs(method)
    return [
        f"`{method}`",
        oracle.trained.replace(" * ", " "),
        f"{trained:,}",
        f"{saved / 1024:,.0f} KiB",
        f"[{against(oracle)}](tests/adapters/{oracle.test})",
        tolerance(oracle),
    ]


@cache
def costs(method: str) -> tuple[int, int]:
    """(numbers trained, bytes saved for backward) of the layer of this page, both counted on the layer itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = METHODS[method](nn.Linear(IN, OUT), AdapterConfig(method, RANK, ALPHA))
        layer.train(method != "dylora")  # which draws a rank to train
        x = torch.randn(TOKENS, IN, requires_grad=True)
        trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        return trained, measure(layer, x, loss=lambda layer, x: layer(x).sum()).saved


def against(oracle: Oracle) -> str:
    """E.g. PEFT LoraConfig, use_dora=True."""
    parts = [f"PEFT {oracle.peft}"] if oracle.peft else []
    parts += [f"{name}={value}" for name, value in oracle.settings.items()]
    parts += [oracle.identity] if oracle.identity else []
    parts += [f"not {NAMES[name]}" for name in FOUR if oracle.models and name not in oracle.models]
    return ", ".join(parts)


def tolerance(oracle: Oracle) -> str:
    return "bit for bit" if not oracle.bar else f"{oracle.bar:.0e} in {oracle.dtype}".replace("e-0", "e-")


def section() -> str:
    """What stands between the markers."""
    return f"{markdown_table(methods_table())}\n\n{NOTE}"


def update(readme: Path, check: bool = False) -> bool:
    """Bring the table in `readme` up to date, unless `check`. Returns whether it was already. Raises ValueError,
    naming the file, if it has no place for the table.
    """
    text = readme.read_text(encoding="utf-8")
    try:
        made = put_between(text, BEGIN, END, section())
    except ValueError as error:
        raise ValueError(f"{readme}: {error}") from None
    if made != text and not check:
        write_files({readme: made})
    return made == text
