"""The folder for a room without a network: made whole or not at all, and enough to install from with no network.

Here with two tiny wheels in place of the real ones. LORA_COURSE_ROOM=/path/to/a/real/one tries that too (minutes).
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lora_course import assets, cli
from lora_course.assets import AssetError, AssetStatus
from lora_course.assets.pinned import MANIFEST
from lora_course.room import build, install
from lora_course.room.build import RoomError, build_room

ROOT = Path(__file__).resolve().parents[2]
FETCHING = """import pathlib, sys, tiny_dependency
pathlib.Path(sys.prefix, "asked").write_text(" ".join(sys.argv[1:]))
"""
REAL = os.environ.get("LORA_COURSE_ROOM")


def write_wheel(folder, name, code, needs=""):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(f"{name}/__main__.py", code)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        archive.writestr(f"{name}-1.0.dist-info/METADATA", metadata + (f"Requires-Dist: {needs}\n" if needs else ""))
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


def tiny_wheels(root, target):
    target.mkdir()
    write_wheel(target, "lora_course", FETCHING, needs="tiny-dependency")
    write_wheel(target, "tiny_dependency", "")


@pytest.fixture
def collected(tmp_path, monkeypatch):
    """Assets of a few bytes in the cache, and wheels that take no time."""
    asset = tmp_path / "cache" / "tiny-0123-r1"
    asset.mkdir(parents=True)
    (asset / "weights").write_text("1 2 3")
    (asset / MANIFEST).write_text(json.dumps({"weights": 5}))
    monkeypatch.setattr(assets, "fetch", lambda: [AssetStatus("tiny", True, 5, asset)])
    monkeypatch.setattr(build, "collect_wheels", tiny_wheels)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "stick" / "room"


def left_behind(folder):
    return [path.name for path in folder.parent.iterdir()] if folder.parent.exists() else []


def test_it_holds_everything_and_nobodys_answers(collected, folder, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["room", str(folder)]) == 0
    assert "2 wheels" in capsys.readouterr().out
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"install.py", "README.txt", "room.json", "assets/tiny-0123-r1/weights", "course/constraints.txt",
            "course/solutions/GRADING.md", "wheels/tiny_dependency-1.0-py3-none-any.whl"} <= names  # fmt: skip
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert (folder / "course" / "notebooks" / path.name).read_text("utf-8") == path.read_text("utf-8")
    assert left_behind(folder) == ["room"]


def offline(command, **environment):
    """Without any network where the system can refuse it, else with proxies that lead nowhere."""
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = []
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("PIP_")}
    return subprocess.run(alone + command, env=own | dead | environment, capture_output=True, text=True)


def test_a_machine_without_a_network_is_set_up_from_it(collected, folder, tmp_path):
    build_room(ROOT, folder)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)  # a stick that cannot be written
    target = tmp_path / "target"
    run = offline([sys.executable, str(folder / "install.py"), str(target)])
    assert run.returncode == 0, run.stderr
    asked = (target / ".venv" / "asked").read_text()
    assert asked == f"fetch --from {folder / 'assets'}"
    notebook = target / "notebooks" / "00_start.ipynb"
    notebook.write_text(notebook.read_text("utf-8"), "utf-8")  # the learner's own: it can be written
    again = offline([sys.executable, str(folder / "install.py"), str(target)])
    assert again.returncode == 1 and "is there already and stays as it is" in again.stderr


def test_an_installation_that_fails_leaves_nothing(collected, folder, tmp_path, monkeypatch):
    build_room(ROOT, folder)
    target = tmp_path / "target"

    def full(*_, **__):
        assert (target / "notebooks").is_dir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(install, "HERE", str(folder))
    monkeypatch.setattr(install.venv, "create", full)
    monkeypatch.setattr(sys, "argv", ["install.py", str(target)])
    with pytest.raises(SystemExit, match="target is removed again: .*No space left"):
        install.main()
    assert not target.exists()


def test_another_kind_of_machine_is_told_so(collected, folder, tmp_path):
    build_room(ROOT, folder)
    (folder / "room.json").write_text(json.dumps({"python": "3.99", "system": "Plan9", "processor": "z80"}))
    run = offline([sys.executable, str(folder / "install.py"), str(tmp_path / "target")])
    assert run.returncode == 1 and "3.99 there" in run.stderr and "Plan9 there" in run.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full.*Nothing half-made was kept"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be made: .*Permission denied"),
        (AssetError("cannot fetch encoder: no network"), "cannot fetch encoder"),
        (RoomError("pip could not collect the packages"), "pip could not"),
    ],
)
def test_what_fails_half_way_leaves_nothing(collected, folder, monkeypatch, problem, said):
    def fails(root, target):
        tiny_wheels(root, target)
        raise problem

    monkeypatch.setattr(build, "collect_wheels", fails)
    with pytest.raises(RoomError, match=said):
        build_room(ROOT, folder)
    assert left_behind(folder) == []


def test_too_small_a_disk_is_noticed_before_anything_is_collected(collected, folder, monkeypatch):
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 10))
    monkeypatch.setattr(build, "collect_wheels", lambda *_: pytest.fail("nothing is collected"))
    with pytest.raises(RoomError, match="the disk is full"):
        build_room(ROOT, folder)
    assert left_behind(folder) == []


def test_ctrl_c_leaves_nothing(collected, folder, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "copy_course", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_room(ROOT, folder)
    assert left_behind(folder) == []


def test_what_is_there_stays(collected, folder):
    folder.mkdir(parents=True)
    (folder / "mine").write_text("x")
    with pytest.raises(RoomError, match="is there already and stays as it is"):
        build_room(ROOT, folder)
    assert (folder / "mine").read_text() == "x"
    other = folder.with_name("other")
    other.with_name("other.part").mkdir()
    with pytest.raises(RoomError, match="another run is at work, or one was killed"):
        build_room(ROOT, other)
    assert other.with_name("other.part").exists()


def test_not_a_clone(tmp_path, folder):
    with pytest.raises(RoomError, match="no pyproject.toml: run this command in a clone"):
        build_room(tmp_path, folder)


@pytest.mark.parametrize(
    ("pip_says", "said"),
    [
        ("ERROR: No matching distribution found for torch", "Check the network and pip's settings(.|\n)*No matching"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
    ],
)
def test_what_pip_says_is_passed_on(folder, collected, monkeypatch, pip_says, said):
    monkeypatch.undo()
    failed = subprocess.CompletedProcess([], 1, "", pip_says)
    monkeypatch.setattr(assets, "fetch", lambda: [])
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RoomError, match=said):
        build_room(ROOT, folder)
    assert left_behind(folder) == []


@pytest.mark.skipif(not REAL, reason="LORA_COURSE_ROOM names no folder made by `lora-course room`")
def test_a_real_one(tmp_path):
    cache, target = tmp_path / "cache", tmp_path / "target"
    run = offline([sys.executable, f"{REAL}/install.py", str(target)], LORA_COURSE_CACHE=str(cache))
    assert run.returncode == 0, run.stderr
    python = str(target / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python")
    load = "from lora_course.assets import *; load_encoder(); load_causal_lm(); print(len(load_reviews()['train']))"
    for where in (cache, f"{REAL}/assets"):
        run = offline([python, "-P", "-c", load], LORA_COURSE_CACHE=str(where))
        assert run.returncode == 0 and run.stdout.split()[-1] == "6528", run.stderr
