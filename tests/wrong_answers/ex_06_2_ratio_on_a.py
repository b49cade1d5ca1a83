"""06.2
it is B that is fast
"""

from torch import nn

from lora_course import adapters


def answer(model, lr, ratio, weight_decay):
    of_embeddings = [a for a in adapters(model).values() if a.kind == "embedding"]
    embedding = {id(t) for a in of_embeddings for _, t in a.own_tensors() if t.ndim > 1}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    slow, tiny, fast, undecayed = [], [], [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if id(p) in embedding:
            tiny.append(p)
        elif "lora_B" not in name and p.ndim != 1:
            slow.append(p)
        elif "bias" in name or id(p) in norms:
            undecayed.append(p)
        else:
            fast.append(p)
    return [
        {"params": slow, "lr": lr * ratio, "weight_decay": weight_decay},
        {"params": tiny, "lr": 1e-6, "weight_decay": weight_decay},
        {"params": fast, "lr": lr, "weight_decay": weight_decay},
        {"params": undecayed, "lr": lr, "weight_decay": 0.0},
    ]
