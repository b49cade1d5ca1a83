"""08.3
use logits / temperature
"""

import torch


def answer(logits, temperature, top_p):
    logits /= temperature
    ordered, order = logits.softmax(-1).sort(descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    kept = torch.zeros_like(logits).scatter(-1, order, kept)
    return kept / kept.sum(-1, keepdim=True)
