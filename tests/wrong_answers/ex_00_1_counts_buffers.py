"""00.1
buffers, such as running means
"""


def answer(model):
    tensors = [*model.parameters(), *model.buffers()]
    return 100 * sum(t.numel() for t in tensors if t.requires_grad) / sum(t.numel() for t in tensors)
