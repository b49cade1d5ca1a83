"""09.2
a view keeps its whole storage alive
"""

import torch


def answer(run, own):
    weights, kept = {t.untyped_storage().data_ptr() for t in own}, {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return [tensor.nbytes for tensor in kept.values()]
