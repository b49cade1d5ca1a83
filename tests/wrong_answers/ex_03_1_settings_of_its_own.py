"""03.1
hand `config` itself
"""

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter
from lora_course.adapters.config import AdapterConfig


def answer(model, suffixes, config):
    if any(isinstance(module, Adapter) for module in model.modules()):
        raise ValueError("this model has adapters already")
    targets = {}
    for suffix in suffixes:
        matches = {name: module for name, module in model.named_modules() if f".{name}".endswith(f".{suffix}")}
        if not matches:
            raise ValueError(f"{suffix!r} matches nothing")
        targets |= matches
    model.requires_grad_(False)
    for name, module in targets.items():
        model.set_submodule(name, LoRA(module, AdapterConfig(rank=config.rank)))
    return list(targets)
