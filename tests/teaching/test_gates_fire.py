"""Every gate is open for a good lesson and shuts for a spoilt one."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output

from lora_course.teaching import answers, exercises, gates
from lora_course.teaching.authoring import WIDGET, build
from lora_course.teaching.exercises import exercise
from lora_course.teaching.references import BY_ARXIV, NOT_OURS, PAPERS
from tests.teaching.conftest import HERE, edit, lesson_of, source_path
from tests.teaching.fixture_course import fixture_checks

FIXTURE = HERE / "fixture_course"
WRONG = answers.answer_files(FIXTURE / "wrong_answers")
RIGHT = answers.answer_files(FIXTURE / "right_answers")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    exercises.all_exercises()  # a lesson first imported inside a test would register in the copy alone
    monkeypatch.setattr(exercises, "_exercises", dict(exercises._exercises))


@pytest.mark.parametrize("gate", gates.GATES, ids=lambda gate: gate.__name__)
def test_the_good_lesson_passes(course, gate):
    assert gate(lesson_of(course)) == []


OUTLINE = "# <details><summary>Outline</summary>\n#\n# Return two times `x`.\n# </details>\n"
TWO_HINTS = "found ['Nudge', 'Bigger nudge']"
THIRD = "# <details><summary>3. Why?</summary>\n#\n# Because.\n# </details>\n"
TITLE = "Exercise 99.1 · Twice as much"
LINK = "[this](https://arxiv.org/abs/2106.09685)"
SPOILT = [
    (gates.headings, "# # 99 · A lesson", "# ## 99 · A lesson", "starts with its only h1"),
    (gates.headings, "# # 99 · A lesson", "# # 98 · A lesson", "starts with its only h1"),
    (gates.headings, "# ## Reading", "# # Reading", "starts with its only h1"),
    (gates.headings, "# # 99 · A", "# ## Before\n#\n# # 99 · A", "starts with its only h1"),
    (gates.headings, "# ## Exercise 99.1 ·", "# #### Exercise 99.1 ·", "skips a level: h2 to h4"),
    (gates.parts, "# **The question.** ", "# ", "there must be **The question.**"),
    (gates.parts, "# - say which gate failed, and why\n", "", "there must be **What you will be able to do**"),
    (gates.parts, " and\n# 300 MiB", ".\n#\n# 300 MiB", "there must be **Time and memory.** with MiB"),
    (gates.parts, "About 15 minutes and", "", "there must be **Time and memory.** with minutes"),
    (gates.parts, "# ## Bug lab · A", "# ## A", "no section '## Bug lab'"),
    (gates.parts, "# ## Self-test", "# ## Quiz", "no section '## Self-test'"),
    (gates.parts, "# ## Reading", "# ## Links", "no section '## Reading'"),
    (gates.parts, "# ## Bug lab · A", "# ## Bug lab\n#\n# ## A", "the bug lab has no code"),
    (gates.parts, THIRD, "", "not ['1', '2']"),
    (gates.parts, "[LoRA](https://arxiv.org/abs/2106.09685)", "LoRA", "'Reading' links to nothing"),
    (gates.exercise_headers, TITLE, "Exercise 99.1 · Twice", "lacks '## Exercise 99.1 · Twice as much'"),
    (gates.exercise_headers, "★ · 5", "★★★ · 5", "lacks '★ · 5 minutes'"),
    (gates.exercise_headers, "· 10 minutes", "· 12 minutes", "lacks '★★ · 10 minutes'"),
    (gates.exercise_headers, OUTLINE, "", TWO_HINTS),
    (gates.exercise_headers, OUTLINE, OUTLINE.replace("<details>", "<details open>"), TWO_HINTS),
    (gates.exercise_headers, OUTLINE, OUTLINE.replace("Return two times `x`.", ""), TWO_HINTS),
    (gates.exercise_headers, OUTLINE, OUTLINE.replace("# </details>\n", ""), "hints are"),
    (gates.links, LINK, "[this] (https://x.org) [this](https://x.org/a b)", "not of the form"),
    (gates.links, LINK, "[this]()", "not of the form"),
    (gates.links, LINK, "[this](http://x.org)", "is not an https address"),
    (gates.links, LINK, "[this](https://nowhere)", "is not an https address"),
    (gates.links, LINK, "[this](98_next.ipynb)", "98_next.ipynb does not exist, seen from notebooks/"),
    (gates.links, LINK, "[ ](https://x.org)", "link https://x.org has no text"),
    (gates.links, "![A line that goes up]", "![]", "image https://example.org/line.svg has no text"),
    (gates.links, LINK, '<img src="x.png" alt="">', "has no alt text"),
    (gates.links, LINK, '<img src="x.png">', "has no alt text"),
    (gates.papers, LINK, "[this](https://arxiv.org/abs/2106.09686)", "arXiv 2106.09686 is not in"),
    (gates.papers, LINK, "arXiv: 9999.99999", "arXiv 9999.99999 is not in"),
    (gates.papers, LINK, "(2203.14493)", "2203.14493 is a computer vision paper"),
    (gates.papers, LINK, "(2303.16742)", "2303.16742 is not identifiable"),
    (gates.local_paths, "STEP = 1.0", "STEP = '/home/ada/data'", "local path '/home'"),
    (gates.local_paths, "STEP = 1.0", "STEP = '/tmp/x'", "local path '/tmp'"),
    (gates.local_paths, "STEP = 1.0", "STEP = r'C:\\data'", "local path 'C:\\\\'"),
]


@pytest.mark.parametrize(("gate", "old", "new", "problem"), SPOILT, ids=lambda value: getattr(value, "__name__", None))
def test_a_spoilt_lesson_fails_where_it_is_spoilt(course, gate, old, new, problem):
    edit(source_path(course), old, new)
    assert any(problem in found for found in gate(lesson_of(course)))


def test_links_to_other_lessons_and_folders_lead_somewhere(course):
    (course / "README.md").write_text("x")
    edit(source_path(course), LINK, "[a](99_fixture.ipynb#Doubling) [b](../README.md) [c](#Doubling) <https://x.org>")
    assert gates.links(lesson_of(course)) == []


def test_the_number_of_exercises_is_bounded(course):
    lesson = lesson_of(course)
    first = [cell for cell in lesson.cells if (cell.exercise or cell.check) != "99.2"]
    assert any("1 exercises" in problem for problem in gates.parts(type(lesson)(lesson.root, lesson.path, first)))


def test_checks_and_exercises_must_match(course):
    exercise("99.3", title="", reference=1, verified="", minutes=1, difficulty=1)(lambda answer: None)
    assert gates.registration(lesson_of(course)) == ["99_fixture.py: check 99.3 has no exercise"]
    del exercises._exercises["99.3"], exercises._exercises["99.1"]
    assert gates.registration(lesson_of(course)) == ["99_fixture.py: exercise 99.1 has no check"]


def change(path, function):
    notebook = nbformat.read(path, as_version=4)
    function(notebook)
    nbformat.write(notebook, path)


def cell_of(notebook, cell_id):
    return next(cell for cell in notebook.cells if cell.id == cell_id)


def give(**fields):
    def apply(notebook):
        for name, value in fields.items():
            setattr(cell_of(notebook, "ex-99-1"), name, value)

    return apply


REGION_99_2 = "Here it is:\n\nmoved = torch.as_tensor(x) + self.by\nreturn moved\n"


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (give(execution_count=3), "has outputs"),
        (give(outputs=[new_output("stream", text="x")]), "has outputs"),
        (give(source="def double(y):\n    return y"), "solving 99.1 would change lines"),
        (give(source=""), "solving 99.1 would change lines"),
        (lambda notebook: setattr(notebook.cells[2], "source", REGION_99_2), "the solution of 99.2 can be read"),
    ],
)
def test_the_students_copy_is_watched(course, spoil, problem):
    change(lesson_of(course).student_path, spoil)
    assert any(problem in found for found in gates.student_copy(lesson_of(course)))


def text_output(text):
    return new_output("stream", name="stdout", text=text)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"execution_count": None}, "not executed"),
        ({"outputs": [new_output("error", ename="KeyError", evalue="", traceback=[])]}, "raises KeyError"),
        ({"outputs": [new_output("stream", name="stderr", text="x")]}, "writes to stderr"),
        ({"outputs": [new_output("display_data", data={WIDGET: {}})]}, "holds a live widget"),
        ({"outputs": [new_output("display_data", data={"application/javascript": "1"})]}, "holds a live widget"),
        ({"outputs": [text_output("x.py:3: FutureWarning: soon")]}, "shows FutureWarning:"),
        ({"outputs": [text_output("saved in /root/run")]}, "shows local path '/root'"),
        ({"outputs": [new_output("display_data", data={"text/html": "<a href='/Users/ada'>"})]}, "local path '/Users'"),
    ],
)
def test_saved_outputs_are_watched(course, fields, problem):
    change(lesson_of(course).solution_path, give(**fields))
    assert any(problem in found for found in gates.saved_outputs(lesson_of(course)))


def test_the_folder_of_the_course_may_not_be_saved(course):
    lesson = lesson_of(course)
    elsewhere = type(lesson)(Path("/srv/course"), lesson.path, lesson.cells)
    change(lesson.solution_path, give(outputs=[text_output("read /srv/course/data")]))
    shown = gates.saved_outputs(elsewhere)
    assert shown == ["99_fixture.ipynb, code cell 1: shows local path '/srv/course'"]


@pytest.mark.parametrize("exercise_id", ["99.1", "99.2"])
def test_good_cells_and_references_pass(course, exercise_id):
    lesson = lesson_of(course)
    assert answers.solution_problems(lesson, exercise_id) == []
    assert answers.stub_problems(lesson, exercise_id) == []
    assert answers.reference_problems(exercise_id) == []
    assert answers.junk_problems(exercise_id) == []


def test_a_wrong_solution_cell_is_seen(course):
    edit(source_path(course), "    return 2 * x", "    return x * x")
    assert "solution of 99.1 should be right" in answers.solution_problems(lesson_of(course), "99.1")[0]


def test_a_stub_that_is_right_or_raises_at_once_is_seen(course):
    method = "    def forward(self, x):\n        ### BEGIN SOLUTION\n        moved = torch.as_tensor(x) + self.by\n"
    edit(source_path(course), "    ### BEGIN SOLUTION\n    return 2 * x\n    ### END",
         "    if True:\n        return 2 * x\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END")
    edit(source_path(course), method + "        return moved\n        ### END",
         "    ### BEGIN SOLUTION\n    def forward(self, x):\n        return x + self.by\n    ### END")
    lesson = lesson_of(course)
    assert "stub of 99.1 should be unsolved" in answers.stub_problems(lesson, "99.1")[0]
    assert "raises as soon as the cell runs" in answers.stub_problems(lesson, "99.2")[0]


def test_a_check_cell_must_call_check(course):
    edit(source_path(course), 'double = check("99.1", double)', "double(2)")
    with pytest.raises(ValueError, match='check cell of 99.1 does not call check'):
        answers.solution_problems(lesson_of(course), "99.1")


def test_a_wrong_reference_and_a_check_that_accepts_junk_are_seen():
    exercise("99.9", title="", reference=4, verified="", minutes=1, difficulty=1)(fixture_checks.asserts_with_words)
    assert "reference of 99.9 should be right" in answers.reference_problems("99.9")[0]
    exercise("99.8", title="", reference=4, verified="", minutes=1, difficulty=1)(lambda answer: None)
    assert len(answers.junk_problems("99.8")) == len(answers.JUNK)


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_wrong_answers_are_rejected_as_announced(path):
    assert answers.wrong_answer_problems(path) == []
    assert f"{path.name} should be right" in answers.right_answer_problems(path)[0]


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.stem)
def test_right_answers_are_accepted(path):
    assert answers.right_answer_problems(path) == []


def test_a_wrong_answer_that_is_right_or_announces_another_message_is_seen(tmp_path):
    path = tmp_path / "ex_99_1_try.py"
    path.write_text('"""99.1\nyou squared it\n"""\n\n\ndef answer(x):\n    return 2 * x\n')
    os.utime(path, (1, 1))
    assert "should be wrong" in answers.wrong_answer_problems(path)[0]
    path.write_text('"""99.1\nyou squared it\n"""\n\n\ndef answer(x):\n    return x / 2\n')
    os.utime(path, (1, 1))  # as long and as old as the one before: still not mistaken for it
    assert "expected 'you squared it' in: the answer is 2 x" in answers.wrong_answer_problems(path)[0]
    path.write_text('"""99.1\nyou\n"""\n\n\ndef answer(x):\n    return x * x\n')
    assert "the second line of the docstring is part of the message" in answers.wrong_answer_problems(path)[0]
    path.write_text('"""99.2\nyou squared it\n"""\n\n\ndef answer(x):\n    return x * x\n')
    with pytest.raises(ValueError, match="its docstring says exercise '99.2', its name '99.1'"):
        answers.wrong_answer_problems(path)


def test_coverage_counts_files(tmp_path):
    right = Path(shutil.copytree(FIXTURE / "right_answers", tmp_path / "right_answers"))
    wrong = Path(shutil.copytree(FIXTURE / "wrong_answers", tmp_path / "wrong_answers"))
    assert answers.coverage_problems(["99.1", "99.2"], right, wrong) == []
    (right / "ex_99_1_times_two.py").unlink()
    (wrong / "ex_99_2_function.py").unlink()
    assert answers.coverage_problems(["99.1", "99.2"], right, wrong) == [
        "99.1: 0 of at least 1 in right_answers/", "99.2: 1 of at least 2 in wrong_answers/",
    ]
    stray = "wrong_answers/ has an answer to 99.2, which is no exercise"
    assert stray in answers.coverage_problems(["99.1"], right, wrong)
    (wrong / "notes.py").write_text("")
    with pytest.raises(ValueError, match="notes.py: an answer's file is called"):
        answers.answer_files(wrong)


def test_a_copied_solution_is_no_second_answer(course):
    right = course / "right_answers"
    assert answers.copied_answer_problems(lesson_of(course), right) == []
    again = '"""99.1"""\n\n\ndef answer(number):\n    """Twice."""\n    return 2 * number  # so\n'
    (right / "ex_99_1_again.py").write_text(again)
    (problem,) = answers.copied_answer_problems(lesson_of(course), right)
    assert problem.startswith("ex_99_1_again.py: the solution in 99_fixture.py")


def test_a_drifting_notebook_is_seen(course):
    assert build(course, check=True) == []
    edit(source_path(course), "# ## Doubling", "# ## Twice")
    assert len(build(course, check=True)) == 2


def test_the_table_of_papers_is_whole():
    assert len(BY_ARXIV) == len(PAPERS) and not set(BY_ARXIV) & set(NOT_OURS)
    for paper in PAPERS:
        assert paper.title and paper.authors and paper.read_it_for and paper.link.endswith(paper.arxiv)
        year, month = int(paper.arxiv[:2]), int(paper.arxiv[2:4])
        assert paper.year == 2000 + year and 1 <= month <= 12
        assert len(paper.lesson) == 2 and 0 <= int(paper.lesson) <= 14
