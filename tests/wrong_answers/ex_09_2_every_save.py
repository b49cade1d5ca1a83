"""09.2
the same storage may be saved several times
"""

import torch


def answer(run, own):
    weights, sizes = {t.untyped_storage().data_ptr() for t in own}, []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sizes
