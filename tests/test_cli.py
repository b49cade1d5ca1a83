"""`lora-course`: what it says, what it exits with, and one JupyterLab that really starts."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from lora_course import assets, cli, doctor
from lora_course.assets import AssetError, AssetStatus
from lora_course.cli import common, start
from lora_course.doctor import Finding

NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder that looks like a clone, and is the current one."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "solutions").mkdir()
    (tmp_path / "notebooks" / "00_start.ipynb").write_text(json.dumps(NOTEBOOK))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """Holds the commands that would have been handed over to, with their environments."""
    calls = []
    monkeypatch.setattr(start, "_hand_over_to", lambda command, environment: calls.append((command, environment)) or 0)
    return calls


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=600, **options)


def test_help_lists_every_command_with_a_sentence_and_runs_as_a_module():
    shown = python("-m", "lora_course", "--help")
    assert shown.returncode == 0
    commands = "doctor fetch lab room build table bench plan search check grade mutate"
    for name in commands.split():
        (line,) = [line for line in shown.stdout.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 5
    assert "lora-course lab" in shown.stdout


def test_commands_import_nothing_heavy_until_they_run():
    heavy = python("-c", "import sys, lora_course.cli as c; c.make_parser(); print(*sys.modules)").stdout.split()
    assert "lora_course.cli" in heavy
    assert not {"transformers", "datasets", "jupyterlab", "matplotlib", "jupytext", "optuna"} & set(heavy)


@pytest.mark.parametrize(
    "line", ["", "nonsense", "lab --port zero", "lab --port 70000", "lab --port ٣", "build --check --execute all",
             "bench", "bench nothing", "bench methods --seeds -1", "bench methods --train many"]
)
def test_a_senseless_command_line_exits_with_2(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 2
    assert "usage: lora-course" in capsys.readouterr().err


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch):
    def interrupted(progress, source):
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "fetch", interrupted)
    assert cli.main(["fetch"]) == 130


# fetch


def test_fetch_lists_sizes(monkeypatch, capsys):
    here = [AssetStatus("encoder", True, 92_000_000, Path("a")), AssetStatus("reviews", True, 15_000_000, Path("b"))]
    asked = []
    monkeypatch.setattr(assets, "fetch", lambda progress, source: asked.append(source) or here)
    assert cli.main(["fetch", "--from", "stick"]) == cli.main(["fetch"]) == 0
    assert asked == [Path("stick"), None]
    assert capsys.readouterr().out.split()[11:] == ["encoder", "92", "MB", "a", "reviews", "15", "MB", "b", "together",
                                                    "107", "MB"]


def test_fetch_says_what_went_wrong_on_stderr(monkeypatch, capsys):
    def offline(progress, source):
        raise AssetError("cannot fetch encoder: no network")

    monkeypatch.setattr(assets, "fetch", offline)
    assert cli.main(["fetch"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "lora-course: cannot fetch encoder: no network\n")


# lab


def test_lab_command():
    plain = start.lab_command(Path("/the course"), browser=True, port=None, as_root=False)
    assert plain[:4] == [sys.executable, "-P", "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={Path('/the course')}" in plain
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start.ipynb" in plain
    assert not {"--no-browser", "--allow-root"} & set(plain) and "port" not in " ".join(plain)
    full = start.lab_command(Path("/x"), browser=False, port=8899, as_root=True)
    assert {"--no-browser", "--allow-root", "--ServerApp.port=8899", "--ServerApp.port_retries=0"} <= set(full)


def test_lab_keeps_the_users_settings_before_ours():
    before = {"JUPYTER_CONFIG_PATH": "/mine", "OTHER": "1"}
    ours = str(start.JUPYTER_SETTINGS)
    assert start.lab_environment(before) == {"JUPYTER_CONFIG_PATH": f"/mine{os.pathsep}{ours}", "OTHER": "1"}
    assert start.lab_environment({}) == {"JUPYTER_CONFIG_PATH": ours}
    assert before["JUPYTER_CONFIG_PATH"] == "/mine"


def test_lab_fetches_first(course, started, monkeypatch):
    fetched = []
    monkeypatch.setattr(assets, "fetch", lambda progress: fetched.append(len(started)))
    assert cli.main(["lab"]) == 0
    assert fetched == [0] and len(started) == 1
    assert cli.main(["lab", "--skip-fetch"]) == 0
    assert fetched == [0] and len(started) == 2


def test_lab_opens_although_fetching_failed_and_names_the_lessons(course, started, monkeypatch, capsys):
    def offline(progress):
        raise AssetError("no network")

    statuses = [AssetStatus("encoder", True, 1, course), AssetStatus("causal_lm", False, 0, course),
                AssetStatus("reviews", False, 0, course)]
    monkeypatch.setattr(assets, "fetch", offline)
    monkeypatch.setattr(assets, "asset_status", lambda: statuses)
    for name, source in (("04_sentiment", "load_encoder(); load_reviews('imdb')"), ("02_layer", "load_nothing()")):
        cell = {"cell_type": "code", "source": source, "outputs": [], "metadata": {}, "execution_count": None}
        (course / "notebooks" / f"{name}.ipynb").write_text(json.dumps(NOTEBOOK | {"cells": [cell]}))
    assert cli.main(["lab"]) == 0
    assert len(started) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: no network"
    assert lines[2:] == ["  without causal_lm: none", "  without reviews: 04_sentiment"]


def test_every_asset_has_a_loader_that_lessons_call():
    names = {status.name for status in assets.asset_status()}
    assert set(start.LOADERS) == names
    assert all(callable(getattr(assets, call.removesuffix("("))) for call in start.LOADERS.values())


def test_lab_without_notebooks_says_where_they_are(tmp_path, monkeypatch, started, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "PACKAGE", tmp_path / "site-packages" / "lora_course")
    assert cli.main(["lab", "--skip-fetch"]) == 1
    assert not started
    assert "run this command in the clone's folder" in capsys.readouterr().err


def test_the_current_folder_comes_before_the_checkout(course, tmp_path, monkeypatch):
    assert common.course_folder(start.START) == course
    monkeypatch.chdir(tmp_path / "notebooks")
    assert common.course_folder(Path("lora_course")) == common.PACKAGE.parent


def test_waiting_survives_ctrl_c():
    class Child:
        answers = iter([KeyboardInterrupt, KeyboardInterrupt, 3])

        def wait(self):
            answer = next(self.answers)
            if answer is KeyboardInterrupt:
                raise answer
            return answer

    assert start.wait_for(Child()) == 3


@pytest.mark.skipif(os.name == "nt", reason="ends the server with SIGINT as a terminal does, which Windows cannot")
def test_a_real_server_opens_lesson_00_without_news_and_ends_with_ctrl_c(course):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(course / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(course / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(course / "w")}
    command = [sys.executable, "-m", "lora_course", "lab", "--no-browser", "--skip-fetch", "--port", str(port)]
    with open(course / "log", "w+") as log:
        server = subprocess.Popen(command, env=os.environ | own | {"JUPYTER_TOKEN": "t"}, stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=subprocess.STDOUT, preexec_fn=_heeds_ctrl_c)
        try:
            page = _get(port, "/", server, log)
            assert page.url.split("?")[0].endswith("/lab/tree/notebooks/00_start.ipynb")
            assert b"<title>JupyterLab</title>" in page.read()
            files = json.load(_get(port, "/api/contents/notebooks", server, log))
            assert [file["name"] for file in files["content"]] == ["00_start.ipynb"]
            plugin = "@jupyterlab/apputils-extension:notification"
            settings = json.load(_get(port, f"/lab/api/settings/{plugin}", server, log))
            properties = settings["schema"]["properties"]
            assert properties["fetchNews"]["default"] == "false"
            assert properties["checkForUpdates"]["default"] is False
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
            server.wait()
        log.seek(0)
        text = log.read()
    assert "Traceback" not in text and "[y/N]" not in text and "(y/[n])" not in text


def _heeds_ctrl_c():
    """As in a terminal; a job in the background of a script, as these tests may be, ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _get(port, path, server, log):
    """The answer, asked for until the server is up; a server that has ended shows its log."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": "token t"})
    for _ in range(3000):
        try:
            return urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError:
            raise
        except OSError:
            if server.poll() is not None:
                log.seek(0)
                pytest.fail(f"JupyterLab ended with {server.returncode}:\n{log.read()}")
            time.sleep(0.1)
    pytest.fail("JupyterLab did not answer")


# build

LESSON = '# %% [markdown]\n# # 01 · Tiny\n\n# %%\nprint(1 + 1)\n'


def test_build_check_exits_with_1_and_writes_nothing_until_it_is_built(course, capsys):
    (course / "notebooks" / "00_start.ipynb").unlink()
    assert cli.main(["build", "--check"]) == 0
    (course / "solutions" / "01_tiny.py").write_text(LESSON)
    assert cli.main(["build", "--check"]) == 1
    assert "notebooks/01_tiny.ipynb: missing" in capsys.readouterr().out
    assert list(course.rglob("*.ipynb")) == []
    assert cli.main(["build", "--execute", "01_tiny"]) == 0
    assert cli.main(["build", "--check"]) == 0


@pytest.mark.parametrize(
    ("given", "asked"), [(["all"], "all"), (["stale"], "stale"), (["01_a", "02_b"], ["01_a", "02_b"]), ([], None)]
)
def test_build_execute_is_passed_on(course, monkeypatch, given, asked):
    seen = []
    monkeypatch.setattr("lora_course.teaching.authoring.build", lambda root, **how: seen.append((root, how)) or [])
    assert cli.main(["build", *(["--execute"] if given else []), *given]) == 0
    assert seen == [(course, {"check": False, "execute": asked})]


def test_build_of_an_unknown_lesson_is_a_usage_error(course, capsys):
    assert cli.main(["build", "--execute", "99_no"]) == 2
    assert "99_no" in capsys.readouterr().err


def test_build_of_a_broken_source_names_the_line(course, capsys):
    (course / "solutions" / "01_tiny.py").write_text('# %% exercise="01.1"\n### BEGIN SOLUTION\nx = 1\n')
    assert cli.main(["build"]) == 1
    assert "01_tiny.py:" in capsys.readouterr().err


def test_build_without_the_author_extra_says_what_to_install(course):
    code = "import sys; sys.modules['jupytext'] = None\nfrom lora_course.cli import main; sys.exit(main(['build']))"
    result = python("-c", code)
    assert result.returncode == 1
    assert "jupytext is not installed" in result.stderr and '".[author]"' in result.stderr
    assert "Traceback" not in result.stderr


# doctor


def test_doctor_of_this_machine_finds_what_the_tests_themselves_rely_on(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_COURSE_CACHE", str(tmp_path / "cache"))
    levels = {finding.title: finding.level for finding in doctor.diagnose(tmp_path)}
    assert all(levels[title] == "ok" for title in ("Python", "kernel", "packages", "cache folder", "data folder"))
    assert levels["asset encoder"] == levels["versions"] == "warn"  # an empty cache, a folder without constraints.txt
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_prints_a_line_each_and_exits_with_1_only_on_fail(monkeypatch, capsys, level, code):
    findings = [Finding("ok", "Python", "3.11"), Finding(level, "disk", "as it is")]
    monkeypatch.setattr(doctor, "diagnose", lambda checkout: findings)
    assert cli.main(["doctor"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["[ok]", "Python", "3.11"]
    assert lines[1].split(maxsplit=2) == [f"[{level}]", "disk", "as it is"]


def test_a_check_that_breaks_is_a_finding(tmp_path, monkeypatch):
    def broken():
        raise OSError("unreadable")

    monkeypatch.setattr(doctor, "installed_versions", broken)
    monkeypatch.setattr(doctor, "kernel_prefix", lambda: sys.prefix)
    broke = [finding for finding in doctor.diagnose(tmp_path) if "could not be checked" in finding.detail]
    assert [(finding.level, finding.title) for finding in broke] == [("fail", "packages"), ("fail", "versions")]
    assert "OSError: unreadable" in broke[0].detail


def test_python_version():
    assert doctor.judge_python((3, 11, 0)).level == doctor.judge_python((4, 0, 0)).level == "ok"
    assert doctor.judge_python((3, 10, 14)).level == "fail"


def test_torch_computes_and_an_unused_card_is_mentioned(monkeypatch):
    cpu = torch.device("cpu")
    assert doctor.judge_torch("2.13.0", cpu, has_nvidia=False).level == "ok"
    unused = doctor.judge_torch("2.13.0", cpu, has_nvidia=True)
    assert unused.level == "warn" and "NVIDIA" in unused.detail
    monkeypatch.setattr(torch, "ones", torch.zeros)
    assert doctor.judge_torch("2.13.0", cpu, has_nvidia=False).level == "fail"


@pytest.mark.parametrize(("available", "level"), [(8e9, "ok"), (3e9, "warn"), (0.5e9, "fail")])
def test_memory(available, level):
    found = doctor.judge_memory(available, 16e9)
    assert found.level == level and f"{available / 1e9:.1f} GB free of 16.0 GB" in found.detail


@pytest.mark.parametrize(
    ("free", "to_come", "level"), [(9e9, 1.2e9, "ok"), (2e9, 1.2e9, "warn"), (1.1e9, 1.2e9, "fail"), (1.1e9, 0, "ok")]
)
def test_disk(free, to_come, level):
    found = doctor.judge_disk(free, to_come, Path("/cache"))
    assert found.level == level
    assert ("LORA_COURSE_CACHE" in found.detail) == (level != "ok")


def test_a_folder_that_cannot_be_written(tmp_path):
    assert doctor.judge_folder("cache folder", tmp_path / "not" / "yet", "X").level == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        found = doctor.judge_folder("cache folder", folder, "LORA_COURSE_CACHE")
        assert found.level == "fail" and "set LORA_COURSE_CACHE" in found.detail


def test_a_kernel_of_another_python_or_none(tmp_path, monkeypatch):
    assert doctor.judge_kernel(sys.prefix, sys.prefix).level == "ok"
    assert doctor.judge_kernel("/usr", "/home/x/.venv").level == "fail"
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    dies = {"argv": [sys.executable, "-c", "raise SystemExit(1)"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(dies))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (found,) = [finding for finding in doctor.diagnose(tmp_path) if finding.title == "kernel"]
    assert found.level == "fail" and "does not start" in found.detail and "ipykernel install" in found.detail


def test_a_profile_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_COURSE_PROFILE", "huge")
    monkeypatch.setattr(doctor, "kernel_prefix", lambda: sys.prefix)
    (found,) = [finding for finding in doctor.diagnose(tmp_path) if finding.title == "profile"]
    assert found.level == "fail" and "smoke, cpu, full" in found.detail


def test_assets_that_are_missing_are_a_warning():
    here, missing = AssetStatus("encoder", True, 92_000_000, Path("a")), AssetStatus("reviews", False, 0, Path("b"))
    found = doctor.judge_assets([here, missing])
    assert [(finding.level, finding.title) for finding in found] == [("ok", "asset encoder"), ("warn", "asset reviews")]
    assert "92 MB" in found[0].detail and "lora-course fetch" in found[1].detail


def test_packages_that_are_missing_or_out_of_range():
    wanted = ["torch>=2.8,<2.14", "Some_Thing>=1", 'jupytext>=1; extra == "author"', "old; python_version < '3'"]
    assert doctor.judge_packages(wanted, {"torch": "2.13.0+cpu", "some-thing": "1.0"}).level == "ok"
    found = doctor.judge_packages(wanted, {"torch": "2.14.0"})
    assert found.level == "fail"
    assert "torch is 2.14.0, not <2.14,>=2.8; Some_Thing is missing" in found.detail


def test_versions_against_constraints():
    pins = "# why\ntorch==2.13.0\npeft==0.21.2  # note\n\nnot-here==1\nold==1; python_version < '3'\n"
    same = doctor.judge_versions(pins, {"torch": "2.13.0+cpu", "peft": "0.21.2", "old": "2"})
    assert same == Finding("ok", "versions", "2 packages, each as tested")
    other = doctor.judge_versions(pins, {"torch": "2.12.1", "peft": "0.21.2"})
    assert other.level == "warn" and "torch 2.12.1 (tested 2.13.0)" in other.detail and "peft" not in other.detail
    many = doctor.judge_versions("\n".join(f"p{n}==1" for n in range(9)), {f"p{n}": "2" for n in range(9)})
    assert "and 4 more" in many.detail
    assert doctor.judge_versions(None, {}).level == "warn"


def test_installed_versions_are_normalised():
    installed = doctor.installed_versions()
    assert installed["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert not [name for name in installed if set(name) & set("_.") or name != name.lower()]


def test_titles_fit_their_column(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "kernel_prefix", lambda: sys.prefix)
    titles = [finding.title for finding in doctor.diagnose(tmp_path)]
    assert max(map(len, titles)) <= 15
    assert all(a != b for a, b in itertools.combinations(titles, 2))
