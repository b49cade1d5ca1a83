"""What counts as a new tensor: results, also inside autograd, but neither views nor what was there before."""

import pytest
import torch

from lora_course.teaching.tensor_sizes import TensorSizes

W, A, B = torch.randn(8, 10), torch.randn(2, 10), torch.randn(8, 2)


@pytest.mark.parametrize(
    ("code", "largest"),
    [
        (lambda: W.T[:, :3].unsqueeze(0), 0),
        (lambda: torch.linalg.vector_norm(W, dim=1), 8),
        (lambda: W @ A.T, 16),
        (lambda: (W.square().sum(1), W.sum()), 80),
        (lambda: (W + B @ A).norm(dim=1), 80),
        (lambda: torch.linalg.qr(W.T)[1], 80),
        (lambda: (B.clone().requires_grad_() @ A).sum().backward(), 80),
    ],
)
def test_largest_new_tensor(code, largest):
    with TensorSizes(W, A, B) as made:
        code()
    assert made.largest == largest
