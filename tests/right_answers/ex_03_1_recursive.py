"""03.1"""

from torch import nn

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter


def matches(name, suffix):
    parts, wanted = name.split("."), suffix.split(".")
    return parts[-len(wanted) :] == wanted


def wrap(parent: nn.Module, prefix, suffixes, config):
    names = []
    for child_name, child in parent.named_children():
        name = f"{prefix}{child_name}"
        if any(matches(name, suffix) for suffix in suffixes):
            setattr(parent, child_name, LoRA(child, config))
            names.append(name)
        else:
            names += wrap(child, f"{name}.", suffixes, config)
    return names


def answer(model, suffixes, config):
    all_names = [name for name, _ in model.named_modules()]
    for suffix in suffixes:
        if not any(matches(name, suffix) for name in all_names):
            raise ValueError(f"nothing is called {suffix}")
    if any(isinstance(module, Adapter) for module in model.modules()):
        raise ValueError("inject only once")
    for parameter in model.parameters():
        parameter.requires_grad = False
    return wrap(model, "", suffixes, config)
