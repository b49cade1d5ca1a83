"""05.1"""

import torch


def answer(method, tokens, in_features, out_features, rank, layers=1):
    """Makes the tensors where they have a size and no memory, and weighs them."""
    with torch.device("meta"):
        x = [torch.empty(tokens, in_features)] if method in ("full", "lora") else []
        low = [torch.empty(tokens, rank) for _ in range(layers)] if method != "full" else []
        high = [torch.empty(tokens, out_features) for _ in range(layers)] if method == "vera" else []
    return sum(tensor.nbytes for tensor in x + low + high)
