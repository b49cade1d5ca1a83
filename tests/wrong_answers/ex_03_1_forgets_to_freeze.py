"""03.1
something else is still trained
"""

from torch import nn

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter


def answer(model: nn.Module, suffixes, config):
    if any(isinstance(m, Adapter) for m in model.modules()):
        raise ValueError("adapters are there already")
    targets = {}
    for suffix in suffixes:
        found = {n: m for n, m in model.named_modules() if f".{n}".endswith(f".{suffix}")}
        if not found:
            raise ValueError(f"{suffix} matches nothing")
        targets |= found
    for name, module in targets.items():
        model.set_submodule(name, LoRA(module, config))
    return list(targets)
