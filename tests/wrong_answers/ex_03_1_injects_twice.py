"""03.1
look for an Adapter among model.modules() first
"""

from torch import nn

from lora_course.adapters import LoRA


def answer(model: nn.Module, suffixes, config):
    targets = {}
    for suffix in suffixes:
        found = {n: m for n, m in model.named_modules() if f".{n}".endswith(f".{suffix}")}
        if not found:
            raise ValueError(f"{suffix} matches nothing")
        targets |= found
    model.requires_grad_(False)
    for name, module in targets.items():
        model.set_submodule(name, LoRA(module, config))
    return list(targets)
