"""03.1
a typo would train nothing, silently
"""

from torch import nn

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter


def answer(model: nn.Module, suffixes, config):
    if any(isinstance(m, Adapter) for m in model.modules()):
        raise ValueError("adapters are there already")
    targets = {n: m for n, m in model.named_modules() if any(f".{n}".endswith(f".{s}") for s in suffixes)}
    model.requires_grad_(False)
    for name, module in targets.items():
        model.set_submodule(name, LoRA(module, config))
    return list(targets)
