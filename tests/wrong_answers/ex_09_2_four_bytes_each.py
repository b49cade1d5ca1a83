"""09.2
not every number takes 4 bytes
"""

import torch


def answer(run, own):
    weights, kept = {t.untyped_storage().data_ptr() for t in own}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage, 4 * storage.nbytes() // tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return [size for _, size in kept.values()]
