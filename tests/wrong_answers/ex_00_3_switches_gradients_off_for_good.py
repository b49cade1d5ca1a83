"""00.3
rather than torch.set_grad_enabled
"""

import torch


def answer(model, batch):
    was_training = model.training
    model.eval()
    torch.set_grad_enabled(False)
    logits = model(**batch)
    model.train(was_training)
    return logits
