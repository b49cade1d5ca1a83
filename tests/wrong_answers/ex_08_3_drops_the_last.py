"""08.3
the token that reaches top_p is dropped too
"""

import torch


def answer(logits, temperature, top_p):
    ordered, order = (logits / temperature).softmax(-1).sort(descending=True)
    kept = ordered * (ordered.cumsum(-1) <= max(top_p, float(ordered[:, 0].max())))
    kept = torch.zeros_like(logits).scatter(-1, order, kept)
    return kept / kept.sum(-1, keepdim=True)
