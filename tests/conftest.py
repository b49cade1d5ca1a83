import pytest
import torch

from lora_course.adapters.fused import plain_forward


@pytest.fixture
def plain():
    """The plain forward in training too, for tests that hold bits against bits; test_fused.py has the other one."""
    with plain_forward():
        yield


@pytest.fixture
def threads(request):
    """As many threads for torch as the parameter says: parametrize("threads", [1, 2], indirect=True)."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
