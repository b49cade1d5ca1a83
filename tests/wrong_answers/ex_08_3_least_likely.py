"""08.3
you kept the least likely tokens
"""

import torch


def answer(logits, temperature, top_p):
    ordered, order = (logits / temperature).softmax(-1).sort()
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    kept = torch.zeros_like(logits).scatter(-1, order, kept)
    return kept / kept.sum(-1, keepdim=True)
