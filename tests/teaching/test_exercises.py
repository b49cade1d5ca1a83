import random
import subprocess
import sys

import numpy
import pytest
import torch

from lora_course.teaching import exercises
from lora_course.teaching.compare import Wrong, expect_close
from lora_course.teaching.exercises import Unsolved, check, exercise, find_exercise, judge
from lora_course.teaching.progress import progress
from tests.teaching.fixture_course import fixture_checks


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is forgotten afterwards."""
    exercises.all_exercises()  # a lesson first imported inside a test would register in the copy alone
    monkeypatch.setattr(exercises, "_exercises", dict(exercises._exercises))


def register(function, reference="the reference!:x", exercise_id="99.9"):
    exercise(exercise_id, title="Try", reference=reference, verified="it works", minutes=1, difficulty=1)(function)
    return exercise_id


def right(x):
    return 2 * x


def wrong(x):
    return x**2


def stub(x):
    raise NotImplementedError("Exercise 99.1: your code goes here")


def test_right_returns_the_learners_own_object_and_says_what_was_verified(capsys):
    assert check("99.1", right) is right
    assert capsys.readouterr().out == (
        "✓ Exercise 99.1 · Twice as much: right\n  Verified: it doubles random numbers\n"
        "  The notebook goes on with your own answer.\n"
    )
    assert progress() == {"99.1": "right"}


def test_wrong_names_property_values_and_mistake_and_returns_the_reference(capsys):
    assert check("99.1", wrong) is fixture_checks.double
    said = capsys.readouterr().out
    for part in ("✗ Exercise 99.1", "Property: the answer is 2 x", "Yours:    tensor (2, 3): ",
                 "Expected: tensor (2, 3): ", "Likely:   you squared it", "goes on with the reference answer"):
        assert part in said
    assert progress() == {"99.1": "wrong"}


def test_unsolved_is_calm_and_returns_the_reference(capsys):
    assert check("99.1", stub) is fixture_checks.double
    said = capsys.readouterr().out
    assert "○ Exercise 99.1 · Twice as much: not solved yet\n  Still to write: stub\n  Nothing is wrong" in said
    assert progress() == {"99.1": "unsolved"}


def test_a_reference_named_by_a_string_is_imported_when_it_is_needed():
    assert check("99.2", None) is fixture_checks.Shift


@pytest.mark.parametrize(("answer", "kind", "symbol"), [(stub, Unsolved, "○"), (wrong, Wrong, "✗")])
def test_strict_raises_with_the_same_words(monkeypatch, capsys, answer, kind, symbol):
    check("99.1", answer)
    shown = capsys.readouterr().out
    monkeypatch.setenv("LORA_COURSE_STRICT", "1")
    with pytest.raises(kind) as caught:
        check("99.1", answer)
    assert str(caught.value).startswith(f"{symbol} Exercise 99.1") and shown.startswith(str(caught.value))
    assert check("99.1", right) is right
    monkeypatch.setenv("LORA_COURSE_STRICT", "0")
    assert check("99.1", answer) is fixture_checks.double


def wrapped_by_cause(x):
    try:
        stub(x)
    except NotImplementedError as error:
        raise ValueError("no luck") from error


def wrapped_and_hidden(x):
    try:
        stub(x)
    except NotImplementedError:
        raise ValueError("no luck") from None


def grouped(x):
    try:
        stub(x)
    except NotImplementedError as error:
        raise ExceptionGroup("several", [ValueError("one"), error]) from None


class StubInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("Exercise 99.1: your code goes here")


def in_backward(x):
    y = x.clone().requires_grad_()
    StubInBackward.apply(y).sum().backward()
    return y.grad


@pytest.mark.parametrize("answer", [wrapped_by_cause, wrapped_and_hidden, grouped, in_backward])
def test_a_stub_is_unsolved_also_when_something_wraps_its_error(answer):
    verdict = judge("99.1", answer)
    assert verdict.outcome == "unsolved"
    name = "StubInBackward.backward" if answer is in_backward else "stub"
    assert verdict.lines == [("Still to write", name)]


def test_a_check_may_catch_errors_without_hiding_a_stub():
    def careful(answer):
        try:
            answer(1)
        except RuntimeError as error:  # NotImplementedError is one
            raise Wrong("it runs") from error

    assert judge(register(careful), stub).outcome == "unsolved"


def test_another_exercises_stub_is_named():
    verdict = judge(register(lambda answer: answer(1)), stub)
    assert verdict.lines == [("Still to write", "stub (Exercise 99.1: your code goes here)")]


def test_a_stub_of_somebody_elses_is_an_error_like_any_other():
    def unfinished(x):
        raise NotImplementedError("later")

    assert judge("99.1", unfinished).outcome == "wrong"


def said(verdict):
    assert verdict.outcome == "wrong"
    return verdict.notice.text()


def test_an_error_in_the_learners_code_shows_its_line_and_no_traceback():
    def broken(x):
        shifted = x + 1
        return torch.ones(2) @ torch.ones(3) + shifted

    first = broken.__code__.co_firstlineno
    text = said(judge("99.1", broken))
    assert f"line {first + 2} of your code: return torch.ones(2) @ torch.ones(3) + shifted" in text
    assert "RuntimeError: " in text and "Traceback" not in text and len(text.splitlines()) < 7


def test_an_error_where_the_check_calls_the_answer_shows_that_call():
    text = said(judge("99.1", lambda: None))
    assert "takes 0 positional arguments but 1 was given" in text and "when the check ran: yours = answer(x)" in text
    assert "'NoneType' object is not callable" in said(judge("99.1", None))


def test_every_kind_of_error_is_reported():
    def leaves(x):
        sys.exit("bye")

    def endless(x):
        return endless(x)

    def shows_an_address(x):
        raise ValueError(f"not {object()}")

    assert "SystemExit: bye" in said(judge("99.1", leaves))
    assert "RecursionError" in said(judge("99.1", endless))
    assert "ValueError: not <object object>\n" in said(judge("99.1", shows_an_address))

    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge("99.1", interrupted)


def test_plain_assertions_of_a_check_are_properties():
    with_words = register(fixture_checks.asserts_with_words)
    without_words = register(fixture_checks.asserts_without_words, exercise_id="99.8")
    torchs_own = register(fixture_checks.asserts_with_torch, exercise_id="99.7")
    assert judge(with_words, 2).lines == [("Property", "three is the answer")]
    assert judge(without_words, 2).lines == [("Property", "assert answer == 3")]
    assert "Scalars are not equal! Expected 3 but got 2" in said(judge(torchs_own, 2))


def test_an_assertion_in_the_learners_code_is_the_learners():
    def strict(x):
        assert x.dim() == 5, "five, please"

    text = said(judge("99.1", strict))
    assert "AssertionError: five, please" in text and "of your code: assert x.dim() == 5" in text


def test_a_check_sees_the_same_numbers_whatever_ran_before():
    seen = []

    def noting(answer):
        seen.append((torch.rand(3).tolist(), random.random(), numpy.random.rand(), torch.get_default_dtype()))
        assert torch.is_grad_enabled()

    name = register(noting)
    torch.manual_seed(5)
    judge(name, None)
    with torch.no_grad():
        torch.set_default_dtype(torch.float64)
        try:
            judge(name, None)
            assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()
        finally:
            torch.set_default_dtype(torch.float32)
    judge("99.1", wrong)
    judge(name, None)
    assert len(seen) == 3 and seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("answer", [right, wrong, stub])
def test_a_check_leaves_the_random_numbers_as_they_were(answer):
    def draw():
        return torch.rand(2).tolist(), random.random(), numpy.random.rand()

    for seed in (torch.manual_seed, random.seed, numpy.random.seed):
        seed(7)
    expected = draw()
    for seed in (torch.manual_seed, random.seed, numpy.random.seed):
        seed(7)
    judge("99.1", answer)
    assert draw() == expected


def test_words_do_not_change_from_run_to_run():
    assert judge("99.1", wrong).notice == judge("99.1", wrong).notice
    assert judge("99.1", wrong).notice.html() == judge("99.1", wrong).notice.html()


def test_an_unknown_exercise_lists_those_that_exist():
    with pytest.raises(LookupError, match=r"no exercise '98.7'; there are: .*99\.1, 99\.2"):
        find_exercise("98.7")


def test_registering_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="write lesson and number"):
        register(lambda answer: None, exercise_id="2.1")
    with pytest.raises(ValueError, match="exercise 99.1 has two checks: .*check_double and .*lambda"):
        register(lambda answer: None, exercise_id="99.1")
    with pytest.raises(ValueError, match="difficulty is 4"):
        exercise("99.9", title="", reference=None, verified="", minutes=1, difficulty=4)


def test_checks_of_the_course_are_found_by_id_and_only_when_asked(tmp_path, monkeypatch):
    (tmp_path / "some_checks").mkdir()
    (tmp_path / "some_checks" / "__init__.py").write_text("")
    (tmp_path / "some_checks" / "lesson_97.py").write_text(
        "from lora_course.teaching.exercises import exercise\n"
        "@exercise('97.1', title='T', reference=1, verified='v', minutes=1, difficulty=1)\n"
        "def check_it(answer):\n    assert answer == 1\n"
    )
    (tmp_path / "some_checks" / "lesson_96.py").write_text("raise RuntimeError('imported without need')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(exercises, "CHECKS", "some_checks")
    assert judge("97.1", 1).outcome == "right"
    assert check("97.1", 2) == 1


def test_importing_exercises_imports_no_checks_and_nothing_heavy():
    code = (
        "import sys, lora_course.teaching.exercises\n"
        "heavy = {'transformers', 'datasets', 'matplotlib', 'IPython', 'jupytext', 'nbformat', 'ipywidgets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert not [name for name in sys.modules if 'checks.lesson' in name]\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_expect_close_inside_a_check_reads_well(capsys):
    def shape_matters(answer):
        expect_close("a row of ones", answer, torch.ones(1, 3))

    check(register(shape_matters, reference=torch.ones(1, 3)), torch.ones(3, 1))
    assert "Yours:    shape (3, 1)\n  Expected: shape (1, 3)\n  Likely:   it is transposed" in capsys.readouterr().out
