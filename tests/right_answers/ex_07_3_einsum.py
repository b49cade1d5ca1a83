"""07.3"""

import torch


def answer(W, A, B, scaling):
    """(W_i + s B_i A) . (W_i + s B_i A), with the scaling folded into B."""
    sB = scaling * B
    gram = torch.einsum("ri,qi->rq", A, A)
    mixed = torch.einsum("oi,ri,or->o", W, A, sB)
    return (W.norm(dim=1) ** 2 + 2 * mixed + torch.einsum("or,rq,oq->o", sB, gram, sB)) ** 0.5
