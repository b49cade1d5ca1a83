"""09.2
a view has an address of its own
"""

import torch


def answer(run, own):
    weights, kept = {t.data_ptr() for t in own}, {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return [tensor.untyped_storage().nbytes() for tensor in kept.values()]
