"""08.3"""

import torch


def answer(logits, temperature, top_p):
    """Row by row: the probability of the last token inside is a threshold for all."""
    rows = []
    for p in torch.softmax(logits / temperature, dim=-1):
        mass, threshold = 0.0, 0.0
        for value in sorted(p.tolist(), reverse=True):
            if mass >= top_p:
                break
            mass, threshold = mass + value, value
        kept = torch.where(p >= threshold, p, torch.zeros_like(p))
        rows.append(kept / kept.sum())
    return torch.stack(rows)
