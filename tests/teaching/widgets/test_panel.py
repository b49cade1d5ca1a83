"""The thin layer: a change draws, an error is shown and raised, nothing goes unlabelled."""

import ipywidgets as w
import pytest
import torch

from lora_course.teaching.widgets import svg
from lora_course.teaching.widgets.panel import Panel
from tests.teaching.widgets import grid


def draw(n: int, fails: bool = False) -> svg.Picture:
    if fails:
        raise RuntimeError("too <much>")
    return svg.picture(f"n & {n}", f"n is {n} < 10", 50, [svg.rect(0, 0, n, 10), svg.text(5, 20, f"{n} < 10")])


def test_a_change_changes_picture_and_sentence():
    panel = Panel(draw, n=w.IntSlider(3, 1, 9, description="n"))
    for n in (7, 1):
        panel.controls["n"].value = n
        root, sentence = grid.shown(panel)
        assert sentence == f"n is {n} < 10" and f"{n} < 10" in grid.words(panel.picture.value)
        assert root.get("aria-label") == f"n & {n}"


def test_an_error_is_shown_and_raised_and_forgotten():
    panel = Panel(draw, n=w.IntSlider(3, 1, 9, description="n"), fails=w.Checkbox(False, description="fails"))
    with pytest.raises(RuntimeError, match="too <much>"):
        panel.controls["fails"].value = True
    assert panel.picture.value == "" and "RuntimeError: too &lt;much&gt;" in panel.sentence.value
    panel.controls["fails"].value = False
    grid.shown(panel)


def test_a_notebook_gets_the_panel_and_the_script_that_names_its_sliders(monkeypatch):
    shown = []
    monkeypatch.setattr("lora_course.teaching.widgets.panel.display", lambda data, raw: shown.append(data))
    panel = Panel(draw, n=w.IntSlider(3, 1, 9, description="n"))
    panel._ipython_display_()
    assert shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    assert "aria-label" in shown[1]["application/javascript"] and len(shown) == 2


def test_a_control_without_a_description_is_refused():
    with pytest.raises(ValueError, match="'n' has no description"):
        Panel(draw, n=w.IntSlider(3, 1, 9))


def test_a_picture_is_an_image_with_its_words():
    root, alternative = grid.image_of(draw(4))
    assert alternative == "n & 4. n is 4 < 10" and root[1].text == "n is 4 < 10"
    assert repr(draw(4)) == alternative


def test_ink_and_paper_change_together():
    """Both are the page's, or both are not: never near-black on a dark page."""
    drawn = draw(4).svg
    assert svg.INK in drawn and svg.PAPER in drawn
    assert svg.INK.startswith("var(--jp-content-font-color1,") and svg.PAPER.startswith("var(--jp-layout-color0,")


def test_a_heatmap_is_an_image_of_the_matrix(tmp_path):
    from io import BytesIO

    from matplotlib.image import imread

    pixels = imread(BytesIO(svg._png(torch.tensor([[-2.0, 0.0, 1.0], [2.0, -1.0, 9.0]]), 2.0)), format="png")
    first = [(0, 114, 178), (255, 255, 255), (234, 174.5, 127.5)]
    expected = [first, [(213, 94, 0), (127.5, 184.5, 216.5), (213, 94, 0)]]
    assert torch.allclose(torch.tensor(pixels[..., :3]) * 255, torch.tensor(expected).float(), atol=1)
