"""00.3
give it back
"""

import torch


def answer(model, batch):
    model.eval()
    with torch.no_grad():
        logits = model(**batch)
    model.train()
    return logits
