"""Checks of lesson 12, hyperparameter search: log-uniform draws, the best, pruning, selection bias, paired errors."""

import math
import statistics

import torch
from torch import Tensor

from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise

NAN = math.nan


def log_uniform(low: float, high: float, u: Tensor) -> Tensor:
    return low * (high / low) ** u


@exercise(
    "12.1",
    title="Every factor of ten alike",
    reference=log_uniform,
    verified="u = 0 gives the lowest, u = 1 the highest, and equal steps of u are equal factors, for three ranges",
    minutes=10,
    difficulty=1,
)
def check_log_uniform(answer):
    u = torch.tensor([0.0, 0.2, 0.35, 0.5, 0.9, 1.0], dtype=torch.float64)
    for low, high in [(1e-5, 1e-1), (2e-4, 3e-2), (0.5, 70.0)]:
        yours = answer(low, high, u.clone())
        expected = log_uniform(low, high, u)
        a, b = math.log(low), math.log(high)
        likely = diagnose(
            yours,
            {
                "that is uniform: nine tenths of the draws fall into the highest factor of ten": low + u * (high - low),
                "that is the logarithm: exp brings it back": a + u * (b - a),
                "that is the logarithm to base 10: 10 ** brings it back": (a + u * (b - a)) / math.log(10),
                "the logarithm is to base e and the power to base 10: take both to the same": 10 ** (a + u * (b - a)),
                "the logarithm is to base 10 and the power to base e: take both to the same": torch.exp(
                    (a + u * (b - a)) / math.log(10)
                ),
                "it runs from the highest down to the lowest": low * (high / low) ** (1 - u),
                "the lowest is missing: it must be multiplied in": (high / low) ** u,
                "that is log-uniform from 1 to the highest: the lowest plays no part": high**u,
            },
        )
        expect_close(f"the draws from {low:g} to {high:g}, relative to the right ones", _over(yours, expected),
                     torch.ones_like(expected), likely, atol=1e-6)  # fmt: skip


def _over(yours, expected: Tensor):
    """Ratios, since a small learning rate is close to anything small; what cannot be divided is told as it is."""
    try:
        return torch.as_tensor(yours, dtype=torch.float64) / expected
    except (TypeError, ValueError, RuntimeError):
        return yours


def best_trial(trials: list[dict], minimize: bool) -> int:
    ok = [i for i, t in enumerate(trials) if t["state"] == "complete" and math.isfinite(t["value"])]
    if not ok:
        raise ValueError("no trial is complete with a finite value")
    return (min if minimize else max)(ok, key=lambda i: trials[i]["value"])


def _trials(*pairs) -> list[dict]:
    names = {"c": "complete", "p": "pruned", "f": "failed", "r": "running"}
    return [{"state": names[state], "value": value} for state, value in pairs]


@exercise(
    "12.2",
    title="The best of those that count",
    reference=best_trial,
    verified="the best complete trial wins in both directions, wherever NaN, infinity, pruned and failed ones stand; "
    "the first of equals; none left raises ValueError",
    minutes=15,
    difficulty=2,
)
def check_best(answer):
    cases = [
        ("NaN in trial 0", _trials(("c", NAN), ("c", 0.7), ("c", 0.8), ("c", 0.6)), (3, 2),
         "a comparison with NaN is never true, so NaN in first place is never beaten: drop it first"),
        ("NaN in the middle", _trials(("c", 0.7), ("c", NAN), ("c", 0.8), ("c", 0.6)), (3, 2),
         "NaN is not smaller and not larger than anything: drop it first"),
        ("values below zero", _trials(("c", -3.0), ("c", NAN), ("c", -1.0), ("c", -2.0)), (0, 2),
         "a bad trial is no 0: if it counts as 0, it can win. Leave it out"),
        ("failed trials without a value", _trials(("f", None), ("c", 0.7), ("c", 0.6)), (2, 1),
         "a failed trial has None for a value: leave it out before you compare"),
        ("a pruned trial in the lead", _trials(("c", 0.7), ("p", 0.1), ("c", 0.5), ("p", 0.9)), (2, 0),
         "a pruned trial's value is from half-way: only complete ones count"),
        ("a running trial in the lead", _trials(("c", 0.7), ("r", 0.1), ("c", 0.5), ("r", 0.9)), (2, 0),
         "a running trial's value is from half-way: only complete ones count"),
        ("infinite losses", _trials(("c", math.inf), ("c", 0.7), ("c", -math.inf), ("c", 0.6)), (3, 1),
         "infinity is as broken as NaN: math.isfinite tells both"),
        ("two equal ones", _trials(("c", 0.7), ("c", 0.5), ("c", 0.7), ("c", 0.5)), (1, 0),
         "of equals, the first"),
    ]  # fmt: skip
    for name, trials, expected, likely in cases:
        for minimize, right in zip((True, False), expected, strict=True):
            try:
                yours = answer([dict(t) for t in trials], minimize)
            except TypeError as error:
                shown = f"TypeError: {error}"
                raise Wrong(f"the best with {name}", yours=shown, expected=right, likely=likely) from None
            values = [t["value"] for t in trials]
            hint = likely
            if yours in values and not isinstance(yours, int):
                hint = "that is a value: return the index of the trial in the list"
            elif yours in (trials[right], trials):
                hint = "that is the trial: return its index in the list"
            elif yours == expected[minimize] and yours != right:
                hint = "that is the best in the other direction: minimize=True wants the smallest value"
            expect_equal(f"the best with {name}, minimize={minimize}", yours, right, hint)
    for trials in ([], _trials(("c", NAN), ("f", None), ("p", 0.3))):
        try:
            yours = answer([dict(t) for t in trials], True)
        except ValueError:
            continue
        except Exception as error:
            yours = f"{type(error).__name__}: {error}"
        raise Wrong(
            "without a single good trial there is no best",
            yours=yours,
            expected="ValueError",
            likely="raise ValueError when nothing is left: a made-up winner is worse than none",
        )


def should_stop(mine: dict[int, float], others: list[dict[int, float]], step: int, startup: int = 5) -> bool:
    there = [other[step] for other in others if step in other]
    if len(there) < startup:
        return False
    return min(value for s, value in mine.items() if s <= step) > statistics.median(there)


@exercise(
    "12.3",
    title="Worse than half",
    reference=should_stop,
    verified="six complete trials and a seventh, at three steps: ties go on, a good past counts, few others decide "
    "nothing, an even number has its median in the middle",
    minutes=15,
    difficulty=2,
)
def check_should_stop(answer):
    others = [{10: 0.60, 20: 0.50, 30: 0.40}, {10: 0.70, 20: 0.40, 30: 0.30}, {10: 0.80, 20: 0.60, 30: 0.60}]
    others += [{10: 0.66, 20: 0.30, 30: 0.20}, {10: 0.90, 20: 0.70, 30: 0.70}, {10: 0.62, 20: 0.45, 30: 0.35}]
    long_tail = [{10: v} for v in (0.1, 0.2, 0.3, 0.4, 9.0)]
    cases = [
        ("clearly worse than half", {10: 0.85}, others, 10, 5, True, "a higher loss than the median stops the trial"),
        ("clearly better than half", {10: 0.61}, others, 10, 5, False, "a lower loss than the median goes on"),
        ("between the median and the mean", {10: 0.35}, long_tail, 10, 5, True,
         "that compares with the mean, which one wild trial can move: take the median"),
        ("between the two in the middle, above their mean", {20: 0.48}, others, 20, 5, True,
         "the median of an even number is the mean of the two in the middle"),
        ("between the two in the middle, below their mean", {20: 0.47}, others, 20, 5, False,
         "torch.median gives the lower of the two in the middle: the median is their mean"),
        ("exactly at the median", {10: 0.3}, long_tail, 10, 5, False, "as good as the median goes on: stop only above"),
        ("good at this step, bad at a later one", {10: 0.65, 20: 0.44, 30: 0.50}, others, 20, 5, False,
         "what was reported after `step` does not count yet"),
        ("worse at this step, better than its median before", {10: 0.40, 20: 0.55}, others, 20, 5, False,
         "a trial may be forgiven one bad evaluation: compare its best so far, not its last"),
        ("an old step", {10: 0.85, 20: 0.10}, others, 10, 5, True, "what was reported after `step` does not count yet"),
        ("too few others", {10: 0.85}, others[:4], 10, 5, False,
         "with fewer than `startup` others there is nothing to compare with: go on"),
        ("just enough others", {10: 0.95}, others[:5], 10, 5, True, "`startup` others are enough"),
        ("too few others that came so far", {30: 0.95}, [*others[:4], {10: 0.1}, {10: 0.1}], 30, 5, False,
         "only others with a value at this step count"),
        ("startup of 2", {10: 0.95}, others[:2], 10, 2, True, "use `startup`, not the number 5"),
    ]  # fmt: skip
    for name, mine, rest, step, startup, expected, likely in cases:
        given = ({**mine}, [{**other} for other in rest])
        try:
            yours = answer(*given, step, startup)
        except KeyError as error:
            raise Wrong(
                f"a trial that is {name}",
                yours=f"KeyError: {error}",
                expected=expected,
                likely="not every other trial has a value at this step: leave out those that have not",
            ) from None
        expect_equal(f"stop a trial that is {name}", yours, expected, likely)


def winners(validation: Tensor, test: Tensor) -> tuple[float, float]:
    chosen = validation.argmax(1, keepdim=True)
    return validation.gather(1, chosen).mean().item(), test.gather(1, chosen).mean().item()


@exercise(
    "12.4",
    title="What the winner is worth",
    reference=winners,
    verified="in each search the validation score chooses, and the same trial's test score judges; both are averaged "
    "over the searches",
    minutes=10,
    difficulty=2,
)
def check_winners(answer):
    validation = torch.tensor([[0.70, 0.74, 0.71, 0.60], [0.80, 0.72, 0.69, 0.77], [0.66, 0.65, 0.68, 0.61]])
    test = torch.tensor([[0.73, 0.69, 0.75, 0.71], [0.70, 0.79, 0.66, 0.64], [0.72, 0.63, 0.67, 0.74]])
    yours = answer(validation.clone(), test.clone())
    expect_parts("winners returns two numbers", yours, "validation, test")
    right = torch.tensor(winners(validation, test))
    both = torch.stack([torch.as_tensor(part).float().squeeze() for part in yours])
    best_test, picked = test.amax(1).mean(), test.argmax(1, keepdim=True)
    overall = validation.mean(0).argmax()
    likely = diagnose(
        both,
        {
            "test chose its own winner: the test split must not choose anything": torch.stack([right[0], best_test]),
            "the test split chose the winner: validation chooses, test judges": torch.stack(
                [validation.gather(1, picked).mean(), best_test]
            ),
            "those are the means over all trials: only the winner of each search counts": torch.stack(
                [validation.mean(), test.mean()]
            ),
            "one trial was chosen for all searches: each search has a winner of its own": torch.stack(
                [validation[:, overall].mean(), test[:, overall].mean()]
            ),
            "the first is right, the second is the mean over all trials: take the winner's": torch.stack(
                [right[0], test.mean()]
            ),
            "the winner was looked for along the wrong dimension: a row is one search": torch.stack(
                [validation.amax(0).mean(), test.gather(0, validation.argmax(0, keepdim=True)).mean()]
            ),
            "they are swapped: validation first": right.flip(0),
        },
    )
    expect_close("the mean score of the winners, on validation and on test", both, right, likely, atol=1e-5)


def difference(right_a: Tensor, right_b: Tensor) -> tuple[float, float]:
    apart = right_a.double() - right_b.double()
    return apart.mean().item(), (apart.std() / math.sqrt(len(apart))).item()


@exercise(
    "12.5",
    title="The same sentences for both",
    reference=difference,
    verified="difference and standard error are those of the differences sentence by sentence, for answers that are "
    "right or wrong and for shares of several seeds",
    minutes=15,
    difficulty=2,
)
def check_difference(answer):
    a = (torch.rand(150) < 0.8).float()
    b = torch.where(torch.rand(150) < 0.9, a, 1 - a)  # mostly right where the other is
    shares = (torch.rand(60, 3) < 0.7).float().mean(1), (torch.rand(60, 3) < 0.6).float().mean(1)
    for name, one, two in (("right or wrong", a, b), ("shares of three seeds", *shares)):
        n, apart = len(one), one.double() - two.double()
        yours = answer(one.clone(), two.clone())
        expect_parts("difference returns two numbers", yours, "difference, standard error")
        mean, error = difference(one, two)
        expect_close(f"the difference in accuracy, {name}", yours[0], mean,
                     diagnose(yours[0], {"that is b - a": -mean, "that is a sum": apart.sum()}))  # fmt: skip
        p, q = one.double().mean(), two.double().mean()
        likely = diagnose(
            yours[1],
            {
                "that is the spread of one sentence: the error of a mean is smaller by the root of their number":
                    apart.std(),
                "that divides by their number: divide by its root": apart.std() / n,
                "that is the variance: take the root": apart.var() / n,
                "that treats the two as judged on different sentences: both had the same, so subtract first":
                    ((p * (1 - p) + q * (1 - q)) / n).sqrt(),
                "that treats the two as judged on different sentences: both had the same, so subtract first, then "
                "take the spread": ((one.double().var() + two.double().var()) / n).sqrt(),
                "that is the error of a alone": one.double().std() / math.sqrt(n),
                "that is the error of one accuracy, p (1 - p) / n: here it is that of a difference":
                    (p * (1 - p) / n).sqrt(),
            },
        )  # fmt: skip
        expect_close(f"its standard error, {name}", _over(yours[1], torch.tensor(error)), 1.0, likely, atol=2e-2)
