"""The step that `plan` predicts, taken for real: the same model, with random weights, on the CPU.

To hold a plan against. The model is as large as it says, so this is for small ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lora_course.adapters.config import AdapterConfig
from lora_course.memory.measure import StepMemory, measure
from lora_course.memory.models import known_config
from lora_course.memory.plan import Situation, _batch, _build, _check, _optimizer, _put_adapters
from lora_course.quantization.base import quantize_base

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def take_step(model: str | PretrainedConfig, adapter: AdapterConfig | None = None, **situation: Any) -> StepMemory:
    """Build the model, take the step, and say what it needed. Arguments as `plan`'s; packed weights count as buffers.

    The batch has padding where `plan`'s may have it. The generators of random numbers are put back.
    Raises ValueError for what `plan` would refuse, and for "nf4", since our layers quantize the absmax too.
    """
    from lora_course.assets.hub import quiet_transformers

    config = known_config(model) if isinstance(model, str) else model
    how = Situation(**situation)
    _check(config, adapter, how)
    if how.quantization == "nf4":
        raise ValueError("our layers quantize the absmax too: take 'nf4-double'")
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        real = _build(config, how).train()
        if how.quantization:
            quantize_base(real, {"nf4-double": "nf4"}.get(how.quantization, how.quantization))
        if adapter is not None:
            _put_adapters(real, adapter, how)
        batch = _batch(config, how)
        if how.padded:
            batch["attention_mask"][0, -1] = 0  # a mask of ones alone is thrown away by the model
        return measure(real, batch, optimizer=lambda model: _optimizer(model, how.optimizer))
