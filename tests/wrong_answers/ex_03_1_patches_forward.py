"""03.1
you replaced a layer's forward
"""

from torch import nn

from lora_course.adapters import LoRA


def answer(model: nn.Module, suffixes, config):
    names = [n for n, _ in model.named_modules() if any(f".{n}".endswith(f".{s}") for s in suffixes)]
    model.requires_grad_(False)
    for name in names:
        layer = model.get_submodule(name)
        plain = nn.Linear(layer.in_features, layer.out_features)
        plain.load_state_dict(layer.state_dict())
        adapter = LoRA(plain, config)
        layer.forward = lambda x, adapter=adapter: adapter(x)
    return names
