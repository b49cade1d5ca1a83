"""06.2
embeddings have a learning rate of their own
"""

from torch import nn


def answer(model, lr, ratio, weight_decay):
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    slow, fast, undecayed = [], [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            is_fast = "lora_B" in name or p.ndim == 1
            bare = "bias" in name or id(p) in norms
            (slow if not is_fast else undecayed if bare else fast).append(p)
    return [
        {"params": slow, "lr": lr, "weight_decay": weight_decay},
        {"params": fast, "lr": lr * ratio, "weight_decay": weight_decay},
        {"params": undecayed, "lr": lr * ratio, "weight_decay": 0.0},
    ]
