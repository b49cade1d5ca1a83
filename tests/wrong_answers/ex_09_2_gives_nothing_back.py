"""09.2
what the first hook returns is handed to the second
"""

import torch


def answer(run, own):
    weights, kept = {t.untyped_storage().data_ptr() for t in own}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing):
        run()
    return [storage.nbytes() for storage in kept.values()]
