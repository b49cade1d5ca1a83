"""00.1"""


def answer(model):
    """One loop over the parameters."""
    trained = total = 0
    for p in model.parameters():
        total += p.nelement()
        if p.requires_grad:
            trained += p.nelement()
    return trained / total * 100
