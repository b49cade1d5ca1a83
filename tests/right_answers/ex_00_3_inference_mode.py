"""00.3"""

import torch


@torch.inference_mode()
def answer(model, batch):
    """A decorator, and try/finally."""
    mode = model.training
    try:
        return model.eval()(**batch)
    finally:
        model.train(mode)
