"""09.2"""

import torch
from torch.autograd.graph import saved_tensors_hooks


def answer(run, own):
    """Hands out numbers in place of tensors, and sorts the storages out afterwards."""
    saved = []

    def pack(tensor):
        saved.append(tensor.detach())
        return len(saved) - 1

    with saved_tensors_hooks(pack, lambda number: saved[number]):
        run()
    seen = [t.untyped_storage()._cdata for t in own]
    sizes = []
    for tensor in saved:
        if (key := tensor.untyped_storage()._cdata) not in seen:
            seen.append(key)
            sizes.append(len(torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())))
    return sizes
