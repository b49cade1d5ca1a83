"""03.1
'my_query' ends with the letters of 'query'
"""

from torch import nn

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter


def answer(model: nn.Module, suffixes, config):
    if any(isinstance(m, Adapter) for m in model.modules()):
        raise ValueError("adapters are there already")
    targets = {}
    for suffix in suffixes:
        found = {n: m for n, m in model.named_modules() if n.endswith(suffix)}
        if not found:
            raise ValueError(f"{suffix} matches nothing")
        targets |= found
    model.requires_grad_(False)
    for name, module in targets.items():
        model.set_submodule(name, LoRA(module, config))
    return list(targets)
