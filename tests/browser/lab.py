"""JupyterLab as `lora-course lab` starts it, on notebooks of ours, and what a test does in it with a keyboard.

Nothing is read from or written to the user's folders. Windowing is off, so that every cell is in the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

from lora_course.cli.start import lab_command, lab_environment

ROOT = Path(__file__).parents[2]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
TRACKER = "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
MINUTES = 120_000  # milliseconds: what a loaded machine may need for anything that is waited for


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab whose root is `folder`/course; smoke profile, progress in `folder`/data."""
    course, settings = folder / "course", folder / "settings"
    shutil.copytree(ROOT / "notebooks", course / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (settings / TRACKER).parent.mkdir(parents=True)
    (settings / TRACKER).write_text(json.dumps({"windowingMode": "none"}))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "LORA_COURSE_PROFILE": "smoke",
        "LORA_COURSE_DATA": str(folder / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    command = [*lab_command(course, False, port, as_root), "--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1"]
    address = f"http://127.0.0.1:{port}"
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=lab_environment(environment), stdout=log, stderr=log)
    try:
        _wait_for(f"{address}/api", server)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_for(address: str, server: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            return urllib.request.urlopen(address, timeout=10).close()
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.3)


def cut(folder: Path, slug: str, *needed: str, before: str = "") -> str:
    """A copy of a lesson, where its notebook lies, with only the code cells that hold one of these words; its path.

    before: code that runs first, in the place of cells that would take too long.
    """
    notebook = nbformat.read(ROOT / "notebooks" / f"{slug}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [cell for cell in code if any(words in cell.source for words in needed)]
    for words in needed:
        assert any(words in cell.source for cell in notebook.cells), f"{slug} has no cell with {words!r}"
    notebook.cells[:0] = [nbformat.v4.new_code_cell(before)] if before else []
    nbformat.write(notebook, folder / "course" / "notebooks" / f"cut_{slug}.ipynb")
    return f"notebooks/cut_{slug}.ipynb"


def open_notebook(page, address: str, path: str) -> None:
    page.goto(f"{address}/lab/tree/{path}?reset")
    wait_for_kernel(page)


def wait_for_kernel(page) -> None:
    page.locator("#jp-main-statusbar", has_text="Python 3 (ipykernel) | Idle").wait_for(timeout=MINUTES)


def run_all(page) -> None:
    """Run, Run All Cells; until every code cell has a number. Raises for an error that a cell shows."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        r"""() => [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputPrompt')]
            .every(prompt => /\[\d+\]/.test(prompt.textContent))""",
        timeout=3 * MINUTES,
    )
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
    assert not errors, errors


def widget(page, control: str):
    """The output that holds the widget with this control or button."""
    return page.locator(".jp-OutputArea-child").filter(has_text=control).filter(has=page.locator(".widget-vbox"))


def press(control, key: str, times: int = 1) -> None:
    """Focus a control of a widget and press a key on it, so often.

    The control must be a panel's own by then: before its script marks it, an arrow key moves to the next cell.
    JupyterLab moves the focus itself when cells have run. A press that went elsewhere is not one: press again.
    """
    control.and_(control.page.locator("[data-lm-suppress-shortcuts]")).wait_for(state="attached")
    control.evaluate("e => { e.heard = 0; e.addEventListener('keydown', () => e.heard++) }")
    for _ in range(20):
        if (heard := control.evaluate("e => e.heard")) >= times:
            break
        control.focus()
        control.page.keyboard.press(key)
    assert heard == times, f"{control} heard {heard} of {times} presses"


def shown(panel) -> str:
    """The sentence of a widget, once picture and sentence say the same."""
    sentence = picture = None
    for _ in range(100):
        sentence = panel.locator("[role=status]").inner_text()
        picture = panel.locator("svg[role=img] > desc").text_content()
        if re.sub(r"\s+", " ", sentence) == re.sub(r"\s+", " ", picture):
            return sentence
        panel.page.wait_for_timeout(100)
    raise AssertionError(f"the sentence says {sentence!r}, the picture {picture!r}")


def changed(panel, before: str, words: str = "") -> str:
    """The sentence of a widget once it is another one than `before`, and holds `words`."""
    for _ in range(MINUTES // 100):
        now = panel.locator("[role=status]").inner_text()
        if now != before and words in now:
            return shown(panel)
        panel.page.wait_for_timeout(100)
    raise AssertionError(f"still {now!r}")
