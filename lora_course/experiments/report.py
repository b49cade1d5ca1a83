"""An honest report of a fine-tune, filled with what was measured and refused where a piece is missing.

Measured         one accuracy, and with its number of examples its standard error
Candidate        one run that was tried, and how it did on the validation split
FineTuneReport   what was asked, tried, chosen and found; `markdown` writes it out
model_card       the report with the head that a model hub reads
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from lora_course.tables import markdown_table
from lora_course.training.history import History

NO_VERDICT = 2.0  # standard errors: a smaller difference is not called one


@dataclass(frozen=True)
class Measured:
    """An accuracy, a fraction, on n examples. Raises ValueError for what cannot be one."""

    name: str
    accuracy: float
    n: int

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 <= self.accuracy <= 1:
            given = f"{self.accuracy} on {self.n}"
            raise ValueError(f"{self.name}: an accuracy is 0 to 1 on 1 or more examples, not {given}")

    @property
    def error(self) -> float:
        """The standard error of a fraction: another n examples would move it by about this much."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.n)

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Candidate:
    """A run that was tried: its history, and its accuracy on the validation split."""

    history: History
    validation: Measured


@dataclass(frozen=True)
class FineTuneReport:
    """What a reader must know to believe a number, or to doubt it.

    question: what was to be found out, and on which split; written before the test split was looked at.
    candidates: every run that was tried, by name, the bad ones too.  chosen: the name of the one handed over.
    rule: how it was chosen.  sizes: split -> examples.
    test, baseline: the chosen model and something simpler on the same test examples.
    difference_error: standard error of test minus baseline, from the examples on which the two disagree.
    besides: what else was measured, e.g. {"adapter file": "1.3 MiB"}.  not_tried: what a reader might take for granted.

    Raises ValueError, naming what is missing or does not fit.
    """

    title: str
    question: str
    candidates: Mapping[str, Candidate]
    chosen: str
    rule: str
    sizes: Mapping[str, int]
    test: Measured
    baseline: Measured
    difference_error: float
    besides: Mapping[str, str]
    not_tried: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("title", "question", "rule", "not_tried"):
            value = getattr(self, name)
            if not value or isinstance(value, str) and not value.strip():
                raise ValueError(f"{name} is empty: a report without it cannot be judged")
        if isinstance(self.not_tried, str):
            raise ValueError("not_tried is a tuple of sentences, not one string")
        if self.chosen not in self.candidates:
            raise ValueError(f"chosen is {self.chosen!r}; the candidates are {', '.join(self.candidates) or 'missing'}")
        for name, candidate in self.candidates.items():
            if candidate.history.summary is None:
                raise ValueError(f"{name} has not been trained to the end: its history has no summary")
        if self.test.n != self.baseline.n:
            raise ValueError(f"test has {self.test.n} examples, the baseline {self.baseline.n}: judge both on the same")
        if not (math.isfinite(self.difference_error) and self.difference_error >= 0):
            raise ValueError(f"difference_error is a standard error, 0 or more, not {self.difference_error}")

    @property
    def difference(self) -> float:
        return self.test.accuracy - self.baseline.accuracy

    def verdict(self) -> str:
        """In words, what the difference allows one to say."""
        found = f"{self.test.name} minus {self.baseline.name}: {self.difference:+.3f} ± {self.difference_error:.3f}"
        if abs(self.difference) <= NO_VERDICT * self.difference_error:
            return f"{found}. These {self.test.n} examples cannot tell the two apart."
        better = self.test if self.difference > 0 else self.baseline
        return f"{found}. On these {self.test.n} examples {better.name} is better."

    def markdown(self) -> str:
        """The report. Every number in it comes from a field."""
        history = self.candidates[self.chosen].history
        run, summary = history.run, history.summary
        seeds = sorted({c.history.run.seed for c in self.candidates.values()})
        seconds = sum(c.history.summary.seconds for c in self.candidates.values())
        tried = [["candidate", "trained", "seconds", "validation accuracy", ""]]
        for name, c in self.candidates.items():
            trained, took = f"{c.history.run.trainable_parameters:,}", f"{c.history.summary.seconds:.0f}"
            tried.append([name, trained, took, str(c.validation), "chosen" if name == self.chosen else ""])
        results = [["on the test split", "accuracy", "n"]]
        results += [[m.name, str(m), str(m.n)] for m in (self.baseline, self.test)]
        facts = {
            "model": f"{run.model}; {run.trainable_parameters:,} of {run.total_parameters:,} parameters trained",
            "data": f"{run.dataset}; " + ", ".join(f"{split} {n:,}" for split, n in self.sizes.items()),
            "seeds": ", ".join(map(str, seeds)),
            "device": run.device,
            "time": f"{summary.seconds:.0f} s for the chosen run, {seconds:.0f} s for all {len(self.candidates)}",
            "memory": f"{summary.peak_memory_bytes / 2**20:,.0f} MiB, {summary.peak_memory_label}",
            "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
            **self.besides,
        }
        parts = [
            f"# {self.title}",
            self.question,
            "## Result",
            markdown_table(results),
            f"{self.verdict()} (± is one standard error: from other examples, not from other seeds.)",
            "## What was tried",
            markdown_table(tried),
            f"Chosen by: {self.rule}",
            "## How it was measured",
            "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
            "## What was not tried",
            "\n".join(f"- {item}" for item in self.not_tried),
        ]
        return "\n\n".join(parts) + "\n"

    def _repr_markdown_(self) -> str:
        return self.markdown()


def model_card(
    report: FineTuneReport, *, base_model: str, license: str, datasets: tuple[str, ...], language: str = "en"
) -> str:
    """The report as a README.md for a model hub: YAML between two lines of ---, then Markdown.

    base_model, datasets: their names on the hub.  license: of what you publish, e.g. "apache-2.0".
    """
    head = {
        "base_model": base_model,
        "library_name": "peft",
        "license": license,
        "language": language,
        "datasets": list(datasets),
        "metrics": ["accuracy"],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in head.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---", "", report.markdown()])
