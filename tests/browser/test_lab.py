"""Lessons in a real JupyterLab in a real browser, moved by keyboard: picture and words change, and agree.

Needs Chromium on the PATH (Debian: apt-get install chromium) and playwright. Screenshots lie in pytest's temporary
folder, or in the folder that LORA_COURSE_SCREENSHOTS names. No page may ask any other machine for anything.
"""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.browser import lab

SERIOUS = ("serious", "critical")
NOT_OURS = {
    "image-alt": ".jp-RenderedImage > img",  # JupyterLab gives a PNG no text; what it shows is printed beside it
    "link-in-text-block": "",  # nbconvert's style sheet: links without a line under them
}
MATRICES = """import torch
shown, other = (f"layer.3.attention.{part}.weight" for part in ("self.value", "output.dense"))
deltas = {name: torch.randn(384, 8) @ torch.randn(8, 384) + torch.randn(384, 384) for name in (shown, other)}"""
DEFINES_RUN = ("def matrices_of_embeddings", "def lora_plus_groups", 'check("06.2"', "def run(name, lr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on the PATH; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=lab.FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(browser, folder):  # after the browser: no server where there is none
    with lab.running(folder) as address:
        yield address


@pytest.fixture
def page(browser, address, request, folder):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(lab.MINUTES)
    elsewhere = []

    def only_here(route):
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            return route.fallback()
        elsewhere.append(route.request.url)
        route.abort()

    context.route("**", only_here)
    page = context.new_page()
    yield page
    take_screenshot(page, request.node.name.removeprefix("test_"), folder)
    token = next(cookie["value"] for cookie in context.cookies() if cookie["name"] == "_xsrf")
    for session in context.request.get(f"{address}/api/sessions").json():
        context.request.delete(f"{address}/api/sessions/{session['id']}", headers={"X-XSRFToken": token})
    context.unroute_all(behavior="ignoreErrors")  # JupyterLab asks its server at all times, also while a page closes
    context.close()
    assert not elsewhere, elsewhere


def take_screenshot(page, name, folder):
    """Of the widget, or of what is in sight; in 128 colours, which makes it small enough for README.md."""
    path = Path(os.environ.get("LORA_COURSE_SCREENSHOTS") or folder / "screenshots") / f"{name}.png"
    if page.locator(".widget-vbox").count():
        page.locator(".widget-vbox").first.evaluate("panel => panel.scrollIntoView({block: 'start'})")
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def serious_violations(page, where=".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea"):
    """What axe finds in our part of the page: in outputs, widgets among them."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context={"include": [[where]]}).response["violations"]
    return [
        (violation["id"], node["target"], node["html"][:200])
        for violation in found
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
        if NOT_OURS.get(violation["id"], "no such element") not in str(node["target"])
    ]


def test_lesson_00(page, address):
    """The lab opens on it, alone; it runs; an exercise solved by typing turns green, and the map knows."""
    page.goto(address)
    lab.wait_for_kernel(page)
    assert page.url.startswith(f"{address}/lab/tree/notebooks/00_start.ipynb")
    assert page.locator(".lm-DockPanel .lm-TabBar-tab").all_inner_texts() == ["00_start.ipynb"]
    page.locator("#jp-main-statusbar", has_text=re.compile(r"Mem:\s+[\d.]+ [MG]B")).wait_for()
    lab.run_all(page)
    course_map = lab.widget(page, "Export to")
    before = lab.shown(course_map)
    assert before.startswith("0 of ") and "Next: exercise 00.1" in before

    cell = page.locator(".jp-CodeCell").filter(has_text="def trainable_percent")
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("def trainable_percent(model):\n")
    page.keyboard.type("sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]\n")
    page.keyboard.type("return 100 * sum(n for n, trained in sizes if trained) / sum(n for n, _ in sizes)")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    verdict = page.locator(".jp-CodeCell").filter(has_text='check("00.1"').locator("[role=status]")
    verdict.filter(has_text="✓").wait_for()
    after = lab.changed(course_map, before)
    assert after.startswith("1 of ") and "Next: exercise 00.2" in after
    assert course_map.locator("svg title", has_text="00.1").text_content().endswith(": right")
    assert page.locator(".Toastify__toast").count() == 0
    course_map.scroll_into_view_if_needed()
    assert not serious_violations(page)


def test_inside_a_step(page, address, folder):
    lab.open_notebook(page, address, lab.cut(folder, "05_lora_fa_and_vera", "inside_a_step"))
    lab.run_all(page)
    panel = lab.widget(page, "Layers that read x")
    before = lab.shown(panel)
    lab.press(panel.get_by_label("Method", exact=True), "ArrowDown")
    fa = lab.changed(panel, before, "LoRA-FA")
    panel.get_by_role("img", name="Inside a step of LoRA-FA").wait_for(state="attached")
    lab.press(panel.get_by_role("slider", name="Rank"), "ArrowRight")
    wider = lab.changed(panel, fa, "rank 16")
    lab.press(panel.get_by_label("Dropout 0.1", exact=True), "Space")
    lab.changed(panel, wider, "dropout 0.1")
    assert not serious_violations(page)


def test_memory_planner(page, address, folder):
    lab.open_notebook(page, address, lab.cut(folder, "09_memory", "memory_planner"))
    lab.run_all(page)
    panel = lab.widget(page, "Must fit in")
    before = lab.shown(panel)
    lab.press(panel.get_by_role("slider", name="Batch"), "ArrowLeft")
    waiting = lab.changed(panel, before, "Not planned yet")
    lab.press(panel.get_by_role("button", name="Plan", exact=True), "Enter")
    planned = lab.changed(panel, waiting, "8 x 64 tokens")
    lab.press(panel.get_by_role("button", name="Measure it"), "Enter")
    assert "the plan is" in lab.changed(panel, planned, "Measured on this CPU")
    panel.locator("svg text", has_text="measured").wait_for(state="attached")
    assert not serious_violations(page)


def test_rank_explorer(page, address, folder):
    lab.open_notebook(page, address, lab.cut(folder, "01_low_rank", "rank_explorer", before=MATRICES))
    lab.run_all(page)
    panel = lab.widget(page, "Matrix")
    before = lab.shown(panel)
    assert before.startswith("change of a value projection, 384 x 384, at rank 1 of 384")
    slider = panel.get_by_role("slider", name="Rank")
    lab.press(slider, "ArrowRight", times=3)
    assert "at rank 4" in lab.changed(panel, before, "at rank 4")
    panel.locator("svg text", has_text="rank 4: ").wait_for(state="attached")
    assert slider.get_attribute("aria-valuetext") == "4"
    lab.press(panel.get_by_label("Matrix", exact=True), "End")
    lab.changed(panel, before, "random matrix, 384 x 384, at rank 4")
    assert not serious_violations(page)


def test_live_training(page, address, folder):
    path = lab.cut(folder, "06_lora_plus_and_delta_lora", "import math", *DEFINES_RUN, "live_training.explore")
    lab.open_notebook(page, address, path)
    lab.run_all(page)
    panel = lab.widget(page, "Curves")
    before = lab.shown(panel)
    assert before == "LoRA: ready; LoRA+ ratio 16: ready."
    lab.press(panel.get_by_role("button", name="Start"), "Enter")
    assert "accuracy" in lab.changed(panel, before, "LoRA+ ratio 16: running, step 11")
    lab.press(panel.get_by_role("button", name="Stop"), "Enter")
    lab.changed(panel, before, "LoRA: stopped")
    sentence = lab.changed(panel, before, "LoRA+ ratio 16: stopped")
    assert sentence.startswith("LoRA: stopped, step ") and "step 40" not in sentence
    assert panel.locator("svg polyline").count() > 2
    assert panel.get_by_role("button", name="Start").is_enabled()
    assert not serious_violations(page)


def test_quantization_explorer(page, address, folder):
    """Last of those in the lab, which stays dark: also in a dark theme, and in a narrow window."""
    lab.open_notebook(page, address, lab.cut(folder, "10_quantization", "quantization_explorer"))
    lab.run_all(page)
    panel = lab.widget(page, "Code book")
    before = lab.shown(panel)
    slider = panel.get_by_role("slider", name="Outlier (std)")
    lab.press(slider, "ArrowRight", times=5)
    after = lab.changed(panel, before, "outlier's block")
    panel.get_by_role("img", name="outlier 5").wait_for()  # five presses, five pictures
    assert slider.get_attribute("aria-valuetext") == "5"
    lab.press(panel.get_by_label("Code book", exact=True), "ArrowDown")
    assert lab.changed(panel, after, "NF4").startswith("NF4, blocks of 64")
    assert not serious_violations(page)

    page.get_by_role("menuitem", name="Settings", exact=True).click()
    for label in ("Theme", "JupyterLab Dark"):
        page.locator(".lm-Menu-itemLabel").get_by_text(label, exact=True).click()
    page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
    page.set_viewport_size({"width": 560, "height": 900})
    page.wait_for_timeout(500)
    assert not serious_violations(page)
    paper, ink = panel.evaluate(
        "panel => ['svg rect', 'svg text'].map(part => getComputedStyle(panel.querySelector(part)).fill)"
    )
    assert contrast(paper, ink) > 7
    box = panel.locator("svg[role=img]").bounding_box()
    assert box["width"] <= 560


def contrast(*colours):
    """WCAG's ratio, of two colours written rgb(r, g, b)."""

    def luminance(colour):
        channels = [int(c) / 255 for c in colour[4:-1].split(",")]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("slug", ["00_start", "05_lora_fa_and_vera"])
def test_a_lesson_as_a_web_page_has_no_serious_violation(slug, browser):
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_filename(lab.ROOT / "solutions" / f"{slug}.ipynb")
    context = browser.new_context()
    context.route("**", lambda route: route.abort())  # MathJax, which the page would fetch
    page = context.new_page()
    page.set_content(html)
    found = serious_violations(page, ".jp-RenderedHTMLCommon")
    context.close()
    assert not found, found
