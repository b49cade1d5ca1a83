"""09.2
leave out the storages of `own`
"""

import torch


def answer(run, own):
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return [storage.nbytes() for storage in kept.values()]
