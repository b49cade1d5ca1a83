"""08.3"""

import torch


def answer(logits, temperature, top_p):
    """Sets the logits outside to minus infinity, then one softmax."""
    scaled = logits / temperature
    ordered, order = torch.sort(scaled, dim=-1, descending=True)
    shares = ordered.softmax(-1)
    outside = shares.cumsum(-1) - shares >= top_p
    return torch.gather(ordered.masked_fill(outside, -torch.inf), -1, order.argsort(-1)).softmax(-1)
