"""03.1
'head' has no dot before it
"""

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter


def answer(model, suffixes, config):
    if any(isinstance(module, Adapter) for module in model.modules()):
        raise ValueError("this model has adapters already")
    targets = {}
    for suffix in suffixes:
        matches = {name: module for name, module in model.named_modules() if name.endswith(f".{suffix}")}
        if not matches:
            raise ValueError(f"{suffix!r} matches nothing")
        targets |= matches
    model.requires_grad_(False)
    for name, module in targets.items():
        model.set_submodule(name, LoRA(module, config))
    return list(targets)
