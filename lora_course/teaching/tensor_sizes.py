"""How large were the tensors that a piece of code made on its way? For checks that forbid a big temporary.

    with TensorSizes(W, A, B) as made:
        answer(W, A, B)
    made.largest                    in numbers, not bytes
It sees every operation below autograd, so it does not matter how the code is written.
"""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class TensorSizes(TorchDispatchMode):
    """Notes the size, in numbers, of every new tensor that is made inside; a view of an old one is not new."""

    def __init__(self, *old: Tensor):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in old}
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result
