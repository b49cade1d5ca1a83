"""Checks of lesson 14, the capstone: the largest that fits, many seeds, a difference's error, the gaps of a card."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise


class Meter:
    """A price that never falls as n grows, and counts how often it is asked. prices: of 1, 2, ... in order."""

    def __init__(self, prices: list[int]):
        self.prices, self.asked = prices, []

    def __call__(self, n: int) -> int:
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(self.prices):
            raise Wrong(
                "bytes_of is asked about whole numbers from 1 to most",
                yours=f"bytes_of({n!r})",
                expected=f"1 to {len(self.prices)}",
                likely="0 and most + 1 are never asked about; the middle is a whole number: //",
            )
        self.asked.append(n)
        return self.prices[n - 1]


def largest_that_fits(bytes_of, budget: int, most: int) -> int:
    fits, too_large = 0, most + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        fits, too_large = (middle, too_large) if bytes_of(middle) <= budget else (fits, middle)
    return fits


@exercise(
    "14.1",
    title="The largest that fits",
    reference=largest_that_fits,
    verified="the largest n for budgets in the middle, exactly met, too small for any and large enough for all, on "
    "plateaus, and for one number alone; among a thousand it asks no more than a dozen times",
    minutes=15,
    difficulty=2,
)
def check_largest(answer):
    stairs = [100 + 10 * (n // 3) for n in range(1, 41)]  # 100, 100, 110, 110, 110, 120, ...
    cases = {
        "a budget in the middle": (stairs, 165),
        "a budget that is met exactly": (stairs, 150),
        "a budget that nothing fits": (stairs, 99),
        "a budget for all of them": (stairs, 1000),
        "one number, which fits": ([5], 5),
        "one number, which does not": ([5], 4),
    }
    for name, (prices, budget) in cases.items():
        expected = sum(price <= budget for price in prices)
        yours = answer(Meter(prices), budget, len(prices))
        smaller = sum(price < budget for price in prices)
        mistakes = {
            "that one is too large already: return the last that fits": expected + 1,
            "what needs exactly the budget fits: <=, not <": smaller if smaller != expected else -1,
            "that is a size in bytes: return n": prices[expected - 1],
            "one more would still fit": expected - 1,
        }
        likely = diagnose(yours, mistakes) if expected else "if nothing fits, the answer is 0"
        expect_equal(f"the largest n that fits, {name}", yours, expected, likely)
    meter = Meter([100 + n for n in range(1, 1001)])
    expect_equal("the largest n of a thousand", answer(meter, 737, 1000), 637)
    if len(meter.asked) > 12:
        raise Wrong(
            "among a thousand, bytes_of is asked about ten times",
            yours=f"asked {len(meter.asked)} times",
            expected="at most 12",
            likely="each question takes seconds: ask about the middle, and half of the numbers are out",
        )


def over_seeds(validation: Tensor, test: Tensor) -> tuple[float, float, float]:
    return test[validation.argmax()].item(), test.mean().item(), test.std().item()


@exercise(
    "14.2",
    title="Many seeds, honestly",
    reference=over_seeds,
    verified="the seed that is best on validation, told by its test accuracy; mean and standard deviation of all seeds",
    minutes=10,
    difficulty=1,
)
def check_over_seeds(answer):
    validation = torch.tensor([0.70, 0.74, 0.78, 0.75, 0.71, 0.78])
    test = torch.tensor([0.73, 0.79, 0.72, 0.70, 0.76, 0.77])
    result = answer(validation.clone(), test.clone())
    expect_parts("over_seeds returns three numbers", result, "chosen, mean, spread")
    chosen, mean, spread = result
    likely = diagnose(
        chosen,
        {
            "that is the best on the test split: choose by validation": test.max(),
            "that is its validation accuracy, by which it was chosen: report test": validation.max(),
            "that is the mean of all seeds: the one that validation chose comes first": test.mean(),
            "that seed is the worst on validation: argmax": test[validation.argmin()],
            "two seeds are equal: take the first of them": test[5],
            "that is the number of the seed: return its accuracy": 2,
        },
    )
    expect_close("the test accuracy of the seed that validation chose", chosen, test[2], likely, atol=1e-6)
    likely = diagnose(
        mean,
        {
            "that is the mean of the validation accuracies": validation.mean(),
            "that is the median": test.median(),
            "that is the mean without the chosen seed: all seeds count": torch.cat([test[:2], test[3:]]).mean(),
        },
    )
    expect_close("the mean of all test accuracies", mean, test.mean(), likely, atol=1e-6)
    likely = diagnose(
        spread,
        {
            "that is the spread of the validation accuracies": validation.std(),
            "that divides by n: with n - 1, a handful of seeds is not flattered": test.std(correction=0),
            "that is the variance: take its square root": test.var(),
            "that is the error of the mean: asked is the spread of single seeds": test.std() / len(test) ** 0.5,
            "that is largest minus smallest": test.max() - test.min(),
        },
    )
    expect_close("the standard deviation of all test accuracies", spread, test.std(), likely, atol=1e-6)


def paired_difference(first: Tensor, second: Tensor) -> tuple[float, float]:
    d = first.double() - second.double()
    return d.mean().item(), (d.var(correction=0) / len(d)).sqrt().item()


@exercise(
    "14.3",
    title="The error of a difference",
    reference=paired_difference,
    verified="difference and error for models that agree on most, on none and on all of the sentences",
    minutes=15,
    difficulty=2,
)
def check_paired(answer):
    n = 60
    first = torch.arange(n) % 5 != 0  # right on 4 of 5
    second = first.clone()
    second[[0, 5, 10, 15]] = True  # four won
    second[[1, 2, 3, 4, 6, 7, 8, 9, 11]] = False  # nine lost
    p, q = first.double().mean(), second.double().mean()
    d = first.double() - second.double()
    mine, theirs = first.clone(), second.clone()
    result = answer(mine, theirs)
    expect_parts("paired_difference returns two numbers", result, "difference, error")
    expect_equal("both stay as they were", torch.equal(mine, first) and torch.equal(theirs, second), True)
    difference, error = result
    likely = diagnose(
        difference,
        {
            "that is second minus first": q - p,
            "that is in sentences: divide by their number": n * (p - q),
            "that is the share on which they disagree: wins and losses cancel": d.abs().mean(),
            "that is in points: return a fraction": 100 * (p - q),
        },
    )
    expect_close("first's accuracy minus second's", difference, p - q, likely, atol=1e-9)
    expected = (d.var(correction=0) / n).sqrt()
    likely = diagnose(
        error,
        {
            "that forgets the pairs: it adds up the errors of two accuracies": ((p * (1 - p) + q * (1 - q)) / n).sqrt(),
            "that is the error of first's accuracy alone": (p * (1 - p) / n).sqrt(),
            "that is the spread of one d: the mean of n of them has 1/√n of it": d.var(correction=0).sqrt(),
            "that is a variance: take the square root": d.var(correction=0) / n,
            "that divides by n - 1: the lesson's formula has n": (d.var() / n).sqrt(),
            "that leaves the mean of d in: subtract it before you square": (d.square().mean() / n).sqrt(),
            "that is the error of the share on which they disagree": (d.abs().var(correction=0) / n).sqrt(),
        },
    )
    expect_close("the error of the difference", error, expected, likely, atol=1e-9, rtol=1e-6)
    same, none = answer(first.clone(), first.clone()), answer(first.clone(), ~first)
    expect_close("two models that agree on everything", same, (0.0, 0.0), atol=1e-9)
    expect_close("two models that agree on nothing", none, paired_difference(first, ~first), atol=1e-9, rtol=1e-6)


MORE = "[More Information Needed]"
FIELDS = ["base_model", "license", "datasets", "metrics", "language"]
CARD = f"""---
base_model: some/encoder
license_name: mine
datasets:
- reviews
metrics: []
language:
tags:
- lora
---

# A model

license: in the text this is no metadata

## Use

### Directly

Like this.

### Within something else

{MORE}

{MORE}

## Training

Ten minutes.

---

### Data

- {MORE}
"""


BOTH = ["license", "tags"]
SMALL_CARDS = [  # what, the likely mistake, card, fields that are missing, headings with a placeholder
    (
        "a card that does not start with ---",
        "front matter begins on the very first line, or there is none",
        f"# Nothing on top\n\nlicense: no\n\n---\n\ntags: no\n\n---\n\n{MORE}\n",
        BOTH,
        ["Nothing on top"],
    ),
    ("an empty card", "lines[0] is not always there", "", BOTH, []),
    (
        "a card whose first --- is never followed by another",
        "without a second --- there is no front matter: all of it is body",
        f"---\nlicense: no\n# Open\n{MORE}\n",
        BOTH,
        ["Open"],
    ),
    (
        "front matter without a line in it",
        "the second --- may be the card's second line",
        f"---\n---\n# Open\n{MORE}\n",
        BOTH,
        ["Open"],
    ),
    (
        "front matter with comments",
        "a # in the front matter is a comment, not a heading",
        f"---\n# Form\nlicense: {MORE}\ntags: \n- a\n# Form\n---\n{MORE}\n# Written\n",
        [],
        [],
    ),
    ("a card without gaps", None, "---\ntags: a\nlicense: b\n---\n# All there\n", [], []),
]


def gaps(card: str, fields: list[str]) -> list[str]:
    lines = card.splitlines()
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    filled = set()
    for line, following in zip(lines[1:end], lines[2 : end + 1], strict=True):
        name, colon, value = line.partition(":")
        if colon and (value.strip() not in ("", "[]") or not value.strip() and following.startswith("- ")):
            filled.add(name)
    found, heading = [field for field in fields if field not in filled], None
    for line in lines[end + 1 if end else 0 :]:
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif MORE in line and heading is not None:
            found.append(heading)
            heading = None
    return found


@exercise(
    "14.4",
    title="What does the card leave out?",
    reference=gaps,
    verified="fields that are absent, empty or only mentioned in the text, lists on lines of their own, sections that "
    "are still a form, in order and once each; a card without front matter",
    minutes=20,
    difficulty=2,
)
def check_gaps(answer):
    fields = list(FIELDS)
    yours = answer(CARD, fields)
    if not isinstance(yours, list | tuple) or not all(isinstance(item, str) for item in yours):
        raise Wrong("gaps returns a list of strings", yours=yours, expected=gaps(CARD, FIELDS))
    expect_equal("fields, which you were given, stay as they were", fields, FIELDS)
    yours, expected = list(yours), gaps(CARD, FIELDS)
    named = [item for item in yours if item in FIELDS]
    wanted = [item for item in expected if item in FIELDS]
    likely = _about_fields(named, wanted)
    expect_equal("the fields that the front matter lacks or leaves empty", named, wanted, likely)
    headings, open_sections = [item for item in yours if item not in FIELDS], expected[len(wanted) :]
    likely = None
    if len(headings) > len(set(headings)):
        likely = "a section with two placeholders is one gap: name its heading once"
    elif any(heading.startswith("#") for heading in headings):
        likely = "the heading is the text after the #s"
    elif {"Use", "A model"} & set(headings):
        likely = "a section ends at the next heading of any level: what stands under a sub-heading belongs to that one"
    elif not headings:
        likely = f"the body counts too: look for {MORE} under each heading"
    elif "Data" not in headings:
        likely = "a --- in the text is a line like any other: the front matter ended before"
    expect_equal("the headings whose section is still a form", headings, open_sections, likely)
    expect_equal("fields first, then headings", yours, expected)
    for what, likely, card, missing, headings in SMALL_CARDS:
        expect_equal(what, list(answer(card, ["license", "tags"])), [*missing, *headings], likely)


def _about_fields(named: list[str], wanted: list[str]) -> str | None:
    if sorted(named) == sorted(wanted):
        return "in the order of `fields`"
    if "license" not in named:
        return "license is not in the front matter: a line of the text is not metadata, license_name is another field"
    if "language" not in named or "metrics" not in named:
        return "a name with nothing after the colon, or with [], is not filled"
    if "datasets" in named:
        return "datasets is a list on the lines below its name: it is filled"
    return None
