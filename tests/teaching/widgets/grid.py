"""What the tests of all widgets ask: is it well-formed, does it say in words what it draws, does every state work?"""

from __future__ import annotations

import base64
import html
import itertools
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import ipywidgets as w

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    """The drawing, if it is well-formed, has a text alternative and nothing in it lies outside or is no number."""
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img" and root.get("aria-label")
    assert root[0].tag == f"{SVG}title" and root[0].text and root[1].tag == f"{SVG}desc" and root[1].text
    width, height = map(float, root.get("viewBox").split()[2:])
    for shape in root.iter():
        for name, most in (("x", width), ("y", height), ("x1", width), ("x2", width), ("y1", height), ("y2", height)):
            if name in shape.attrib:
                assert -0.5 <= float(shape.get(name)) <= most + 0.5, (shape.tag, shape.attrib, shape.text)
    assert not re.search(r"\bnan\b|\binf\b", svg)
    assert not re.search(r'(href|src)="(?!data:)', svg)
    return root


def words(svg: str) -> list[str]:
    """Every piece of text in the drawing."""
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def shown(panel) -> tuple[ElementTree.Element, str]:
    """The drawing on the panel, and the sentence below it, which the drawing must carry as its description."""
    root = parsed(panel.picture.value)
    sentence = html.unescape(re.sub("<[^>]*>", "", panel.sentence.value))
    assert root[1].text == sentence
    return root, sentence


def choices(control: w.Widget) -> list[Any]:
    """Values to try: every option, both ends of a slider and its middle."""
    if isinstance(control, w.Checkbox):
        return [False, True]
    if hasattr(control, "options"):
        return [o[1] if isinstance(o, tuple) else o for o in control.options]
    middle = control.min + round((control.max - control.min) / 2 / control.step) * control.step
    return sorted({control.min, control.min + control.step, middle, control.max})


def over_grid(panel, **only: list[Any]) -> Iterator[dict[str, Any]]:
    """Set the controls to every combination of their choices (or of `only` these); yields each state that is shown."""
    grid = {name: only.get(name) or choices(control) for name, control in panel.controls.items()}
    for combination in itertools.product(*grid.values()):
        for name, value in zip(grid, combination, strict=True):
            panel.controls[name].value = value
        assert panel.values() == dict(zip(grid, combination, strict=True))
        yield panel.values()


def all_controls_are_labelled(panel) -> None:
    def inside(widget: w.Widget) -> Iterator[w.Widget]:
        yield widget
        for child in getattr(widget, "children", ()):
            yield from inside(child)

    for widget in inside(panel):
        if isinstance(widget, w.ValueWidget | w.Button) and not isinstance(widget, w.HTML):
            assert widget.description, widget


def image_of(picture) -> tuple[ElementTree.Element, str]:
    """The drawing and the alternative text in the HTML that a notebook saves of a static picture."""
    source, alternative = (re.search(f'{name}="([^"]*)"', picture._repr_html_())[1] for name in ("src", "alt"))
    assert source.startswith("data:image/svg+xml;base64,")
    return parsed(base64.b64decode(source.partition(",")[2]).decode()), html.unescape(alternative)
