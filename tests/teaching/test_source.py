import pytest

from lora_course.teaching.source import SourceError, lesson_paths, read_lesson, stub_line

EXERCISE = """# %% exercise="99.1"
def f(x):
    ### BEGIN SOLUTION
    return x
    ### END SOLUTION

# %% check="99.1"
f = check("99.1", f)
"""


def lesson(tmp_path, text):
    path = tmp_path / "solutions" / "99_try.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return read_lesson(path, tmp_path)


def test_cells_keep_their_kind_line_and_metadata(tmp_path):
    header = '# %% tags=["setup"] jupyter={"source_hidden": true}\n1 + 1\n\n'
    read = lesson(tmp_path, "# %% [markdown]\n# # Title\n\n" + header + EXERCISE)
    assert [(c.kind, c.line, c.exercise, c.check) for c in read.cells] == [
        ("markdown", 1, None, None), ("code", 4, None, None), ("code", 7, "99.1", None), ("code", 13, None, "99.1"),
    ]
    assert read.cells[0].source == "# Title"
    assert read.cells[1].metadata == {"tags": ["setup"], "jupyter": {"source_hidden": True}}
    assert (read.number, read.slug) == ("99", "99_try")
    assert list(read.exercises) == list(read.checks) == ["99.1"]


def test_a_student_gets_one_stub_per_region_at_its_indent(tmp_path):
    text = """# %% exercise="99.1"
class F:
    def a(self):
        y = 1
        ### BEGIN SOLUTION
        if y:
            return 2
        ### END SOLUTION

    def b(self):
        ### BEGIN SOLUTION
        # a comment, then code
        return 3
        ### END SOLUTION

# %% check="99.1"
F = check("99.1", F)
"""
    stub = stub_line("99.1")
    assert stub == 'raise NotImplementedError("Exercise 99.1: your code goes here")'
    assert lesson(tmp_path, text).cells[0].for_student() == (
        f"class F:\n    def a(self):\n        y = 1\n        {stub}\n\n    def b(self):\n        {stub}"
    )


CELL, CHECK = '# %% exercise="99.1"', '# %% check="99.1"'
TWO_CELLS = "99_try.py:1: exercise and check are two code cells"
BEGIN, END = "    ### BEGIN SOLUTION\n", "    ### END SOLUTION\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (END, "", "99_try.py:3: ### BEGIN SOLUTION without ### END SOLUTION in the same cell"),
        (BEGIN, "", "99_try.py:4: ### END SOLUTION without ### BEGIN"),
        (BEGIN, BEGIN + BEGIN, "99_try.py:4: ### BEGIN SOLUTION inside the region that began on line 3"),
        ("    return x\n", "", "99_try.py:4: no code in the region that began on line 3"),
        ("    return x\n", "    # only words\n\n", "99_try.py:6: no code in the region that began on line 3"),
        (BEGIN, "    # BEGIN SOLUTION\n", "99_try.py:3: a marker stands alone on its line"),
        (END, "    ### END SOLUTION here\n", "99_try.py:5: a marker stands alone on its line"),
        (END, "  ### END SOLUTION\n", "99_try.py:5: ### END SOLUTION is not indented like"),
        (BEGIN, "### BEGIN SOLUTION\n", "99_try.py:3: a solution stands inside a function"),
        (BEGIN + "    return x\n" + END, "    return x\n", "99_try.py:1: exercise 99.1 has no solution region"),
        (CELL, "# %%", "99_try.py:3: ### BEGIN SOLUTION outside an exercise cell"),
        (CHECK, f"# %%\n1\n\n{CHECK}", "99_try.py:7: the code cell after exercise 99.1 must start"),
        ('# %% check="99.1"\nf = check("99.1", f)\n', "", "99_try.py: exercise 99.1 has no check below it"),
        (CHECK, '# %% check="99.2"', "99_try.py:7: the code cell after exercise 99.1 must start"),
        (CELL, '# %% exercise="98.1"', "99_try.py:1: exercise id '98.1'; in this file ids look like"),
        (CELL, '# %% exercise="99.1" check="99.1"', TWO_CELLS),
        (CELL, '# %% [markdown] exercise="99.1"', TWO_CELLS),
        ('f = check("99.1", f)\n', EXERCISE, "99_try.py:8: exercise 99.1 is there twice"),
        (CELL, 'import x\n# %% exercise="99.1"', "99_try.py:1: the first line must start a cell"),
        (CELL, '# %% [raw]\n# x\n\n# %% exercise="99.1"', "99_try.py:1: a cell is markdown or code"),
    ],
)
def test_what_could_not_be_built_as_meant_is_refused_with_its_line(tmp_path, old, new, message):
    assert EXERCISE.count(old) == 1
    with pytest.raises(SourceError) as caught:
        lesson(tmp_path, EXERCISE.replace(old, new))
    assert str(caught.value).startswith(message)


def test_a_check_without_exercise_is_refused(tmp_path):
    with pytest.raises(SourceError, match="99_try.py:1: check 99.1 does not stand below"):
        lesson(tmp_path, '# %% check="99.1"\nf = check("99.1", f)\n')


def test_markers_in_markdown_are_refused(tmp_path):
    with pytest.raises(SourceError, match="99_try.py:2: a marker stands alone"):
        lesson(tmp_path, "# %% [markdown]\n# ### BEGIN SOLUTION\n")


def test_sources_are_found_in_order_and_named_alike(tmp_path):
    folder = tmp_path / "solutions"
    folder.mkdir()
    for name in ("10_b.py", "02_a.py"):
        (folder / name).write_text("")
    assert [path.name for path in lesson_paths(tmp_path)] == ["02_a.py", "10_b.py"]
    (folder / "helpers.py").write_text("")
    with pytest.raises(SourceError, match="helpers.py: a lesson's source is called NN_slug.py"):
        lesson_paths(tmp_path)
