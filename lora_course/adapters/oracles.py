"""What each method is held against, and how near it must come: one table, read by the tests and by the README's.

Where PEFT has a method, PEFT is the oracle: the same weights and inputs, and then the same outputs and gradients. Where
it has none, an identity of the paper is. The tests take config and bar from here, so the README cannot say another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FOUR = ("bert", "gpt2", "llama", "t5")
NO_CONV1D = ("bert", "llama", "t5")  # PEFT refuses Conv1D for LoHa and LoKr, and crashes on it for OLoRA


@dataclass(frozen=True)
class Oracle:
    """trained: how many numbers a layer trains, an expression in r, d (in) and k (out).

    peft: the name of PEFT's config; settings: what it is given beyond rank, alpha and targets.
    identity: in words, what is compared with, where PEFT is not all there is to say.
    bar: the largest difference of outputs and gradients, relative to the largest value where that is above 1; 0 is bit
    for bit. It holds for the plain forward; the hand-written steps of fused.py are held against that in float64.
    dtype: in which it is measured.
    models: tiny random models of these architectures; none: a layer or two alone.
    test: the file under tests/adapters that does it.
    """

    trained: str
    peft: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    bar: float = 0.0
    dtype: str = "float32"
    models: tuple[str, ...] = FOUR
    test: str = "test_methods_against_peft.py"


LORA = "r * (d + k)"
ORACLES = {
    "lora": Oracle(LORA, "LoraConfig"),
    "rslora": Oracle(LORA, "LoraConfig", {"use_rslora": True}),
    "lora_fa": Oracle("r * k", "LoraConfig", identity="A frozen"),
    "vera": Oracle("r + k", "VeraConfig", identity="A and B regenerated"),
    "delta_lora": Oracle(
        LORA,
        identity="the paper's recurrence over 8 steps, two layers",
        bar=1e-12,
        dtype="float64",
        models=(),
        test="test_delta_lora.py",
    ),
    "dora": Oracle(LORA + " + k", "LoraConfig", {"use_dora": True}, bar=2e-6),
    "pissa": Oracle(LORA, "LoraConfig", {"init_lora_weights": "pissa"}, bar=2e-6),
    "olora": Oracle(LORA, "LoraConfig", {"init_lora_weights": "olora"}, models=NO_CONV1D),
    "loftq": Oracle(
        LORA, identity="its algorithm 1 written out, one layer", bar=1e-6, models=(), test="test_loftq.py"
    ),
    "adalora": Oracle("r * (d + k + 1)", "AdaLoraConfig", identity="masks too", test="test_adalora.py"),
    "dylora": Oracle(
        LORA,
        identity="the LoRA of the rank that is drawn, one layer",
        bar=1e-12,
        dtype="float64",
        models=(),
        test="test_dylora.py",
    ),
    "ia3": Oracle("k", "IA3Config"),
    "loha": Oracle("2 * r * (d + k)", "LoHaConfig", models=NO_CONV1D),
    "lokr": Oracle("d1 * k1 + r * (d2 + k2)", "LoKrConfig", models=NO_CONV1D),
    "houlsby": Oracle(
        "2 * r * k + r + k",
        identity="its equation written out, one layer",
        bar=1e-11,
        dtype="float64",
        models=(),
        test="test_methods.py",
    ),
}
