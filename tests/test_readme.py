"""The README's commands are the ones that CI runs and that a stranger types; its table lists every lesson."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from lora_course import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSTRAINTS = {
    name: Version(version)
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def command(name):
    return re.search(rf"<!-- {name} -->\n```bash\n(.+)\n```", README)[1]


def test_both_commands_start_from_a_clone():
    make = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e "
    assert command("open-command") == f"{make}. && .venv/bin/lora-course lab"
    assert command("test-command") == f'{make}".[test]" && .venv/bin/pytest'


def test_ci_runs_the_readmes_test_command():
    """.ci/run's own awk line, on this README."""
    script = (ROOT / ".ci" / "run").read_text()
    extract = re.search(r"^command=\$\((awk .+)\)$", script, re.MULTILINE)[1]
    found = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == command("test-command")


@pytest.mark.parametrize(("code", "last"), [(0, "3 passed in 1.00s"), (1, "1 failed in 1.00s"), (5, "no tests ran")])
def test_ci_ends_as_pytest_does_in_a_copy_with_its_own_caches_and_leaves_nothing(tmp_path, code, last):
    checkout, temporary = tmp_path / "checkout", tmp_path / "tmp"
    for folder in (checkout / ".ci", checkout / ".venv", checkout / ".git", temporary):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci")
    (checkout / "pytest").write_text(
        "pwd; ls -A | sort | xargs; echo $LORA_COURSE_CACHE; echo ${LORA_COURSE_STRICT-unset}; "
        f"echo {last}; exit {code}"
    )
    (checkout / "README.md").write_text(
        "```bash\nfalse\n```\n<!-- test-command -->\n```bash\nbash pytest\n```\nnot this\n"
    )
    environment = os.environ | {"TMPDIR": str(temporary), "LORA_COURSE_CACHE": "/mine", "LORA_COURSE_STRICT": "1"}
    run = subprocess.run(["bash", checkout / ".ci" / "run"], cwd="/", env=environment, capture_output=True, text=True)
    shown, where, files, cache, strict, closing = run.stdout.splitlines()
    assert (run.returncode, closing, strict) == (code, last, "unset"), run.stderr
    assert shown == "bash pytest"
    assert Path(where).parent.parent == Path(cache).parent.parent == temporary
    assert files == ".ci README.md pytest"  # without .venv and .git
    assert list(temporary.iterdir()) == []


def test_every_lesson_is_in_the_table():
    listed = re.findall(r"^\| \[\d\d .+\]\(notebooks/(.+)\.ipynb\) \|", README, re.MULTILINE)
    assert listed == sorted(path.stem for path in (ROOT / "solutions").glob("[0-9]*.py"))


def test_what_will_it_fit_answers_is_what_the_readme_says(capsys):
    pattern = r"without allocating anything \((.+?)\):\n\n```bash\n.venv/bin/lora-course (plan .+)\n```"
    said, line = re.search(pattern, README).groups()
    assert cli.main(line.split()) == 0
    assert re.search(r"^peak of the step +(\S+ \S+) ", capsys.readouterr().out, re.MULTILINE)[1] == said


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


DEPENDENCIES = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]


@pytest.mark.parametrize("dependency", [d for d in DEPENDENCIES if not d.startswith("lora_course")])
def test_constraints_pin_every_dependency_inside_its_range(dependency):
    requirement = Requirement(dependency)
    assert requirement.name in CONSTRAINTS, f"{requirement.name} is not pinned in constraints.txt"
    assert CONSTRAINTS[requirement.name] in requirement.specifier
