"""The README's commands are the ones that CI runs and that a stranger types; its table lists every lesson."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

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


def test_every_lesson_is_in_the_table():
    listed = re.findall(r"^\| \[\d\d .+\]\(notebooks/(.+)\.ipynb\) \|", README, re.MULTILINE)
    assert listed == sorted(path.stem for path in (ROOT / "solutions").glob("[0-9]*.py"))


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


DEPENDENCIES = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]


@pytest.mark.parametrize("dependency", [d for d in DEPENDENCIES if not d.startswith("lora_course")])
def test_constraints_pin_every_dependency_inside_its_range(dependency):
    requirement = Requirement(dependency)
    assert requirement.name in CONSTRAINTS, f"{requirement.name} is not pinned in constraints.txt"
    assert CONSTRAINTS[requirement.name] in requirement.specifier
