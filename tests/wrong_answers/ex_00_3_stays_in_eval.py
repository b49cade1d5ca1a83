"""00.3
remember model.training first
"""

import torch


def answer(model, batch):
    model.eval()
    with torch.no_grad():
        return model(**batch)
