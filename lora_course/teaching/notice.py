"""How a verdict looks: one symbol, one sentence, a few labelled lines, as plain text and as HTML.

In a notebook both go out together and the front end picks; in a terminal the text is printed. The HTML takes its text
colour from the page, so that it reads well in a light and in a dark theme; its own colour is one border, at least
3:1 against white and against near-black. The symbol and the words say the same without any colour.
"""

from __future__ import annotations

import html
import sys
import textwrap
from dataclasses import dataclass

SYMBOL = {"right": "✓", "wrong": "✗", "unsolved": "○"}
BORDER = {"right": "#2a9d4a", "wrong": "#d73a49", "unsolved": "#6e7f94"}
HEADLINE = {"right": "right", "wrong": "not right yet", "unsolved": "not solved yet"}
CLOSING = {
    "right": "The notebook goes on with your own answer.",
    "wrong": "The notebook goes on with the reference answer. To try again, edit your cell and run it and this one.",
    "unsolved": "Nothing is wrong: the notebook goes on with the reference answer. "
    "When you have written yours, run your cell and this one.",
}


@dataclass(frozen=True)
class Notice:
    """outcome: "unsolved", "wrong" or "right"; lines: (label, text) pairs."""

    outcome: str
    title: str
    lines: tuple[tuple[str, str], ...]

    @property
    def headline(self) -> str:
        return f"{SYMBOL[self.outcome]} {self.title}: {HEADLINE[self.outcome]}"

    def body(self) -> str:
        """What came out and why, as plain text."""
        width = max((len(label) for label, _ in self.lines), default=0) + 2
        rows = [
            textwrap.indent(f"{label + ':':<{width}}" + text.replace("\n", "\n" + " " * width), "  ")
            for label, text in self.lines
        ]
        return "\n".join([self.headline, *rows])

    def text(self) -> str:
        """The body, and how the notebook goes on: for a terminal, a log, and a front end that shows no HTML."""
        return f"{self.body()}\n  {CLOSING[self.outcome]}"

    def html(self) -> str:
        """A box whose left border carries the colour; screen readers announce it as a status."""
        rows = "".join(
            f"<div><strong>{html.escape(label)}:</strong> "
            f'<span style="white-space:pre-wrap;overflow-wrap:anywhere">{html.escape(text)}</span></div>'
            for label, text in self.lines
        )
        return (
            f'<div role="status" style="border-left:4px solid {BORDER[self.outcome]};padding:0.2em 0 0.2em 0.8em">'
            f"<div><strong>{html.escape(self.headline)}</strong></div>{rows}"
            f"<div>{html.escape(CLOSING[self.outcome])}</div></div>"
        )


def show(notice: Notice) -> None:
    """Display inside IPython, print outside; a console that knows few characters gets question marks, not an error."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import display

        display({"text/plain": notice.text(), "text/html": notice.html()}, raw=True)
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(notice.text().encode(encoding, "replace").decode(encoding))
