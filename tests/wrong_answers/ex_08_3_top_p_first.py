"""08.3
the top p is chosen before the temperature
"""

import torch


def answer(logits, temperature, top_p):
    ordered, order = logits.softmax(-1).sort(descending=True)
    inside = torch.zeros_like(logits).scatter(-1, order, (ordered.cumsum(-1) - ordered < top_p).to(logits))
    kept = (logits / temperature).softmax(-1) * inside
    return kept / kept.sum(-1, keepdim=True)
