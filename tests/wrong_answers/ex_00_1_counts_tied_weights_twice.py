"""00.1
was counted twice
"""


def answer(model):
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)]
    return 100 * sum(p.numel() for p in parameters if p.requires_grad) / sum(p.numel() for p in parameters)
