"""Checks of the lesson that the gates are tried on."""

import torch

from lora_course.teaching.compare import Wrong, diagnose, expect_close
from lora_course.teaching.exercises import exercise

BASE = 2


def double(x):
    return x + x


class Shift(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


@exercise(
    "99.1",
    title="Twice as much",
    reference=double,
    verified="it doubles random numbers",
    minutes=5,
    difficulty=1,
)
def check_double(answer):
    x = torch.randn(2, 3)
    mistakes = {"you squared it": x**2, "you returned it as it came": x, "you halved it": x / 2}
    yours = answer(x)
    expect_close("the answer is 2 x", yours, 2 * x, diagnose(yours, mistakes))


@exercise(
    "99.2",
    title="A module that shifts",
    reference="tests.teaching.fixture_course.fixture_checks:Shift",
    verified="it is a module and adds its number",
    minutes=10,
    difficulty=2,
)
def check_shift(answer):
    if not (isinstance(answer, type) and issubclass(answer, torch.nn.Module)):
        raise Wrong("Shift is a module", yours=answer, expected="class Shift(nn.Module): ...")
    x = torch.randn(4)
    yours = answer(3.0)(x)
    expect_close("the output is x + by", yours, x + 3, diagnose(yours, {"you multiplied instead of adding": 3 * x}))


def asserts_with_words(answer):
    assert answer == 3, "three is the answer"


def asserts_without_words(answer):
    assert answer == 3


def asserts_with_torch(answer):
    torch.testing.assert_close(torch.tensor(answer), torch.tensor(3))
