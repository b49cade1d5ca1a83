"""The thin layer between a pure function and ipywidgets: controls above, the picture, its sentence below.

    Panel(draw, bits=IntSlider(...), block=Dropdown(...))        draw(bits=4, block=64) -> Picture, on each change
A string of SVG in an HTML widget is the fastest of all ways to change a picture. An error in `draw` takes the place of
the sentence, since a notebook does not show what an observer raises, and is raised all the same, for tests.
Two things that ipywidgets leaves out are done by a few lines of script in the page: a slider's handle gets a name that
a screen reader can say, and an arrow key in a panel moves the control, where JupyterLab would go to the next cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as w
from IPython.display import display

from lora_course.teaching.widgets.svg import Picture

FOR_KEYS_AND_SCREEN_READERS = """
const set = (handle, name, source) => {
  if (source && handle.getAttribute(name) !== source.textContent) handle.setAttribute(name, source.textContent);
};
const look = area => {
  area.querySelectorAll('.widget-vbox :is(select, input, button, [role="slider"])').forEach(
    control => control.setAttribute("data-lm-suppress-shortcuts", "true"));
  area.querySelectorAll(".widget-slider").forEach(slider => {
    const handle = slider.querySelector('[role="slider"]');
    if (!handle) return;
    set(handle, "aria-label", slider.querySelector(".widget-label"));
    set(handle, "aria-valuetext", slider.querySelector(".widget-readout"));
  });
};
const changes = {subtree: true, childList: true, characterData: true, attributeFilter: ["aria-valuetext"]};
const begin = () => {
  if (!element.isConnected) return setTimeout(begin, 50);
  const area = element.closest(".jp-OutputArea") || document.body;
  new MutationObserver(() => look(area)).observe(area, changes);
  look(area);
};
begin();
"""


class Panel(w.VBox):
    """controls: name -> widget, all with a description.  picture, sentence: the HTML widgets below them.

    buttons: more widgets, placed under the controls, that `draw` knows nothing of.
    Raises ValueError for a control without a description: nobody could tell what it does.
    """

    def __init__(self, draw: Callable[..., Picture], buttons: tuple[w.Widget, ...] = (), **controls: w.Widget):
        for name, control in controls.items():
            if not control.description:
                raise ValueError(f"the control {name!r} has no description: say what it changes")
            control.style.description_width = "initial"
            control.layout.width = "auto"
            control.layout.flex = "1 1 250px"
        self._draw, self.controls = draw, controls
        self.picture = w.HTML(layout={"overflow": "auto hidden"}, tabbable=True)  # so that arrow keys can scroll it
        self.sentence = w.HTML()
        rows = [w.Box(list(group), layout={"flex_flow": "row wrap"}) for group in (controls.values(), buttons) if group]
        super().__init__([*rows, self.picture, self.sentence])
        for control in controls.values():
            control.observe(self._changed, "value")
        self.update()

    def values(self) -> dict[str, Any]:
        """Name -> value of every control, which is the state that is drawn."""
        return {name: control.value for name, control in self.controls.items()}

    def update(self) -> None:
        """Draw the present state. Shows, and raises, whatever `draw` raises."""
        with self.errors_shown():
            self.show(self._draw(**self.values()))

    def show(self, picture: Picture) -> None:
        self.picture.value = picture.svg
        self.say(picture.summary)

    def say(self, sentence: str) -> None:
        self.sentence.value = f'<div role="status" style="line-height:1.4">{escape(sentence)}</div>'

    @contextmanager
    def errors_shown(self) -> Iterator[None]:
        """A block whose errors are shown in the panel and go on to the caller."""
        try:
            yield
        except Exception as error:
            self.picture.value = ""
            self.say(f"This picture could not be drawn: {type(error).__name__}: {error}")
            raise

    def _ipython_display_(self) -> None:
        display(self._repr_mimebundle_(), raw=True)
        display({"application/javascript": FOR_KEYS_AND_SCREEN_READERS}, raw=True)

    def _changed(self, _change: dict[str, Any]) -> None:
        self.update()
