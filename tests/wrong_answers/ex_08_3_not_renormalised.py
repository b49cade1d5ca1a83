"""08.3
what is left must sum to 1 again
"""

import torch


def answer(logits, temperature, top_p):
    ordered, order = (logits / temperature).softmax(-1).sort(descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return torch.zeros_like(logits).scatter(-1, order, kept)
