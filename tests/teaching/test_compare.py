import numpy
import pytest
import torch
from torch import nn

from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, summarise


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.tensor([[1.0, 2.5]]), "tensor (1, 2): 1, 2.5"),
        (torch.arange(9), "tensor (9,) int64: 0, 1, 2, 3, 4, 5, ..."),
        (torch.zeros(2, 2, dtype=torch.float64), "tensor (2, 2) float64: 0, 0, 0, 0 (all zero)"),
        (torch.tensor(3.25), "tensor: 3.25"),
        (torch.tensor([1.0, float("nan")]), "tensor (2,): 1, nan (holds NaN or infinity)"),
        (torch.empty(0, 3), "tensor (0, 3), no values"),
        (torch.empty(2, 3, device="meta"), "tensor (2, 3), no values"),
        (nn.Parameter(torch.ones(1)), "tensor (1,): 1"),
        (nn.Linear(2, 3), "a Linear module"),
        (nn.Linear, "the class Linear"),
        (summarise, "the function summarise"),
        (1 / 3, "0.333333"),
        ((1, "two", None), "(1, 'two', None)"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, ...]"),
        (None, "None"),
        (Unshowable(), "a Unshowable that cannot be shown"),
    ],
)
def test_summaries(value, shown):
    assert summarise(value) == shown


def test_summaries_hold_no_addresses_and_no_novels():
    assert summarise(object()) == "<object object>"
    assert len(summarise("x" * 5000)) == 200
    assert "\n" not in summarise("a\nb")


def message(function, *arguments, **named):
    with pytest.raises(Wrong) as caught:
        function(*arguments, **named)
    return str(caught.value)


def test_wrong_shows_what_it_was_given_in_order():
    error = Wrong("B is zero", yours=None, expected=0.5, likely="you forgot")
    assert str(error) == "Property: B is zero\nYours: None\nExpected: 0.5\nLikely: you forgot"
    assert str(Wrong("B is zero")) == "B is zero"
    assert [label for label, _ in Wrong("p", expected="text").lines] == ["Property", "Expected"]


@pytest.mark.parametrize("yours", [torch.ones(2), [1, 1], (1.0, 1.0), numpy.ones(2), nn.Parameter(torch.ones(2))])
def test_close_takes_every_kind_of_numbers(yours):
    expect_close("ones", yours, torch.ones(2))


def test_close_shows_the_largest_difference():
    yours, right = torch.zeros(3, 4), torch.zeros(3, 4)
    yours[1, 2] = 0.25
    said = message(expect_close, "all zero", yours, right, "one was forgotten")
    assert "largest difference 0.25 at [1, 2]" in said and "Likely: one was forgotten" in said
    assert "nan" not in message(expect_close, "finite", torch.tensor(1.0), torch.tensor(2.0))
    assert "largest difference inf at [0]" in message(expect_close, "finite", torch.tensor([torch.nan]), torch.ones(1))


def test_close_respects_its_tolerances():
    expect_close("near", 1.0 + 1e-6, 1.0)
    message(expect_close, "near", 1.0 + 1e-6, 1.0, atol=1e-8, rtol=1e-8)
    message(expect_close, "near", 1.001, 1.0)


@pytest.mark.parametrize(
    ("yours", "fragment"),
    [
        (None, "Likely: nothing is returned"),
        ("text", "Yours: text"),
        (nn.Linear(2, 3), "Yours: a Linear module"),
        (torch.ones(3, 2), "Yours: shape (3, 2)\nExpected: shape (2, 3)\nLikely: it is transposed"),
        (torch.ones(2), "Yours: shape (2,)\nExpected: shape (2, 3)"),
        ([[1], [1, 2]], "Yours: [[1], [1, 2]]"),
        (torch.ones(2, 3, device="meta"), "Yours: tensor (2, 3), no values"),
        ({"a": 1}, "Yours: {'a': 1}"),
    ],
)
def test_close_says_what_it_got_instead_of_numbers(yours, fragment):
    assert fragment in message(expect_close, "ones", yours, torch.ones(2, 3))


def test_close_needs_numbers_to_expect():
    with pytest.raises(TypeError, match="expected must be numbers, not None"):
        expect_close("x", 1.0, None)


@pytest.mark.parametrize(("yours", "expected"), [(3, 3), (True, 1), ((1, 2), (1, 2)), (torch.tensor(3), 3)])
def test_equal(yours, expected):
    expect_equal("the same", yours, expected)


@pytest.mark.parametrize("yours", [None, 4, "3", Unshowable(), numpy.ones(3), [3]])
def test_not_equal(yours):
    said = message(expect_equal, "three", yours, 3, "count again")
    assert said.startswith("Property: three\nYours: ")
    assert ("nothing is returned" if yours is None else "count again") in said


def test_diagnose_picks_the_mistake_that_gives_this_value():
    x = torch.randn(3)
    mistakes = {"squared": x**2, "another shape": torch.ones(4), "halved": lambda: x / 2}
    assert diagnose(x * x, mistakes) == "squared"
    assert diagnose(x / 2, mistakes) == "halved"
    assert diagnose(x, mistakes) is None
    assert diagnose(x, mistakes, default="look again") == "look again"
    assert diagnose(None, mistakes, default="nothing") == "nothing"
