"""08.3
scatter them back
"""


def answer(logits, temperature, top_p):
    ordered, _ = (logits / temperature).softmax(-1).sort(descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return kept / kept.sum(-1, keepdim=True)
