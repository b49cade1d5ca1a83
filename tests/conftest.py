import pytest

from lora_course.adapters.fused import plain_forward


@pytest.fixture
def plain():
    """The plain forward in training too, for tests that hold bits against bits; test_fused.py has the other one."""
    with plain_forward():
        yield
