"""Checks of lesson 13, benchmark and pictures: times in turn, paired seeds, the frontier, effective rank."""

import math
import random
import statistics

from lora_course.experiments.statistics import frontier, median_ratio, paired_difference
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise
from lora_course.training.metrics import effective_rank


@exercise(
    "13.1",
    title="Two clocks in turn",
    reference=median_ratio,
    verified="the median of the ratios within a round, over all rounds but the first ones, for an odd and an even "
    "number of rounds and with a machine that slows down in between",
    minutes=10,
    difficulty=1,
)
def check_median_ratio(answer):
    for rounds, warm_up in ((9, 2), (12, 3), (7, 0)):
        slow = [1 + 3 * (i > rounds // 2) for i in range(rounds)]  # the machine slows down half-way
        theirs = [s * (1.0 + 0.1 * random.random()) for s in slow]
        mine = [s * (1.3 + 0.4 * random.random()) for s in slow]
        mine[0] *= 40  # the first is cold
        mine[warm_up + 1] *= 9  # something else woke up
        a, b = mine[warm_up:], theirs[warm_up:]
        pairs = [x / y for x, y in zip(a, b, strict=True)]
        right = statistics.median(pairs)
        mistakes = {
            "that is theirs over mine: the question is how many times as long mine takes": statistics.median(
                y / x for x, y in zip(a, b, strict=True)
            ),
            "that is the mean of the ratios: one round in which something else woke up decides it": statistics.fmean(
                pairs
            ),
            "that divides the means: one slow round decides it. Divide within each round first": statistics.fmean(a)
            / statistics.fmean(b),
            "that divides the medians: when the machine slows down half-way, they come from different moments. Divide "
            "within each round first": statistics.median(a) / statistics.median(b),
            "that divides the shortest times, which are from two different rounds": min(a) / min(b),
            "the rounds to warm up are still in": statistics.median(
                x / y for x, y in zip(mine, theirs, strict=True)
            ),
            "you left out the last rounds: the first ones are cold": statistics.median(
                x / y for x, y in zip(mine[: rounds - warm_up], theirs[: rounds - warm_up], strict=True)
            ),
        }
        mistakes = {message: value for message, value in mistakes.items() if not math.isclose(value, right)}
        yours = answer([*mine], [*theirs], warm_up)
        where = f"{rounds} rounds, {warm_up} of them to warm up"
        expect_close(f"the median ratio, {where}", yours, right, diagnose(yours, mistakes), atol=1e-9)


@exercise(
    "13.2",
    title="The same seeds",
    reference=paired_difference,
    verified="mean and standard error of the differences between runs of the same seed, whatever the order of the "
    "seeds, also where either has a seed more",
    minutes=15,
    difficulty=2,
)
def check_paired(answer):
    cases = [((0, 1, 2), (), ()), ((5, 3, 8, 1), (), ()), ((4, 2, 9), (7,), ()), ((4, 2, 1), (), (6,))]
    for seeds, only_a, only_b in cases:
        luck = {seed: random.gauss(0, 0.04) for seed in (*seeds, *only_a, *only_b)}
        a = {seed: 0.78 + luck[seed] + random.gauss(0, 0.004) for seed in (*seeds, *only_a)}
        b = {seed: 0.76 + luck[seed] + random.gauss(0, 0.004) for seed in (*only_b, *reversed(seeds))}
        n = len(seeds)
        pairs = [a[seed] - b[seed] for seed in seeds]
        mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(n)
        result = answer(dict(a), dict(b))
        expect_parts("paired_difference returns two numbers", result, "mean, standard_error")
        by_place = [x - y for x, y in zip(a.values(), b.values(), strict=False)]
        where = f"seeds {', '.join(map(str, a))}"
        of_all = statistics.fmean(a.values()) - statistics.fmean(b.values())
        likely = diagnose(
            result[0],
            {
                "that is b − a": -mean,
                "that is the difference of the means over all seeds: leave out a seed that only one has": of_all,
                "that compares the best of each: luck, mostly": max(a.values()) - max(b.values()),
                "that is the median of the differences": statistics.median(pairs),
                "the values were paired by their place in the dicts, not by seed": statistics.fmean(by_place),
            },
        )
        expect_close(f"the mean of a − b, {where}", result[0], mean, likely, atol=1e-9)
        values = [[x[seed] for seed in seeds] for x in (a, b)]
        deviation = statistics.stdev(pairs)
        likely = diagnose(
            result[1],
            {
                "that is the standard deviation: the mean of n differences is surer, by the root of n": deviation,
                "divide by the root of n, not by n": deviation / n,
                "the deviation of a few values divides by n − 1: they vary around a mean that was made from "
                "them": statistics.pstdev(pairs) / math.sqrt(n),
                "the values were paired by their place in the dicts, not by seed": statistics.stdev(by_place)
                / math.sqrt(len(by_place)),
                "that is the variance: a standard error is its root": error**2,
                "that is the error for runs that share nothing. Subtract first, within each seed: what both share "
                "cancels": math.sqrt(sum(statistics.variance(v) for v in values) / n),
            },
        )
        expect_close(f"the standard error of the mean, {where}", result[1], error, likely, atol=1e-9)


@exercise(
    "13.3",
    title="Beaten by none",
    reference=frontier,
    verified="the names on the frontier, cheapest first, with ties in cost, in quality and in both",
    minutes=15,
    difficulty=2,
)
def check_frontier(answer):
    cases = {
        "a plain one": [("a", 3, 0.70), ("b", 1, 0.60), ("c", 2, 0.65), ("d", 4, 0.68), ("e", 5, 0.75)],
        "two of the same cost": [("a", 2, 0.70), ("b", 2, 0.72), ("c", 1, 0.60), ("d", 6, 0.80)],
        "two of the same quality": [("a", 5, 0.75), ("b", 2, 0.75), ("c", 1, 0.50), ("d", 9, 0.90)],
        "two that are the same in both": [("a", 4, 0.80), ("b", 2, 0.70), ("c", 4, 0.80), ("d", 7, 0.77)],
        "one that lies below the line between its neighbours": [("a", 1, 0.50), ("b", 5, 0.55), ("c", 9, 0.90)],
        "a single one": [("a", 7, 0.5)],
    }
    for what, points in cases.items():
        result = answer([*points])
        try:
            yours = [*result]
        except TypeError:
            raise Wrong("frontier returns a list of names", yours=result, expected="a list of names") from None
        mistakes = {
            "the names are right, their order is not: cheapest first": sorted(frontier(points)),
            "those are the beaten ones": [name for name, _, _ in points if name not in frontier(points)],
            "that is only the best of all: a cheaper one that is worse may still be beaten by none": [
                max(points, key=lambda p: p[2])[0]
            ],
            "you read cost and quality the wrong way round": _beaten_by_none(
                points, lambda p, q: q[1] >= p[1] and q[2] <= p[2] and q[1:] != p[1:]
            ),
            "of two that cost the same, the worse one is beaten; so is the dearer of two that are equally "
            "good": _beaten_by_none(points, lambda p, q: q[1] < p[1] and q[2] > p[2]),
            "of two that cost the same, the worse one is beaten": _beaten_by_none(
                points, lambda p, q: q[1] < p[1] and q[2] >= p[2]
            ),
            "of two that are equally good, the dearer one is beaten": _beaten_by_none(
                points, lambda p, q: q[1] <= p[1] and q[2] > p[2]
            ),
            "two that are the same in both do not beat each other: better in one is needed": _beaten_by_none(
                points, lambda p, q: q is not p and q[1] <= p[1] and q[2] >= p[2]
            ),
            "you left out a point because it lies below the straight line between two others. Neither of those two "
            "beats it": ["a", "c"] if what.startswith("one that lies") else ["nothing"],
        }
        right = frontier(points)
        likely = next((m for m, value in mistakes.items() if value == yours != right), None)
        if likely is None and len(yours) == len(right) and set(yours) == set(right):
            likely = "the names are right, their order is not: cheapest first"
        if sorted(yours, key=str) == sorted(right) and [_cost(points, n) for n in yours] == [
            _cost(points, n) for n in right
        ]:
            continue  # equals in both may come in either order
        expect_equal(f"the frontier of {what}", yours, right, likely)


def _cost(points, name):
    return next(cost for label, cost, _ in points if label == name)


def _beaten_by_none(points, beats):
    kept = [p for p in points if not any(beats(p, q) for q in points)]
    return [name for name, _, _ in sorted(kept, key=lambda p: p[1])]


@exercise(
    "13.4",
    title="How many directions?",
    reference=effective_rank,
    verified="r for r equal singular values, 1 for a single direction, something between for a decaying spectrum; the "
    "same for any scale; 0 for a change of 0, and zeros do no harm",
    minutes=15,
    difficulty=2,
)
def check_effective_rank(answer):
    for what, values in (
        ("a decaying spectrum", [4.0, 2.0, 1.0, 0.5, 0.2]),
        ("four equal values", [3.0] * 4),
        ("a single direction", [0.7]),
        ("a spectrum with zeros", [2.0, 1.0, 0.0, 0.0]),
        ("a small change", [3e-3, 1e-3, 1e-3]),
    ):
        total, energy = sum(values), sum(v * v for v in values)
        shares, squares = [v / total for v in values if v], [v * v / energy for v in values if v]
        entropy = -sum(p * math.log(p) for p in shares)
        yours = answer([*values])
        likely = diagnose(
            yours,
            {
                "that is the entropy: exp of it counts directions": entropy,
                "those are shares of the energy, the squares: here it is the values themselves that are "
                "shared out": math.exp(-sum(p * math.log(p) for p in squares)),
                "the logarithm is to base 2 and the power to base e: take one base for both": math.exp(
                    entropy / math.log(2)
                ),
                "the values are not shares yet: divide by their sum first": math.exp(
                    min(700.0, -sum(v * math.log(v) for v in values if v))
                ),
                "the sign is lost: an entropy is positive": math.exp(-entropy),
                "0 times log 0 is 0 here: leave zeros out": math.nan,
                "that counts those that are not zero: how large they are must matter": len(shares),
                "divide by the sum of the values, not by the largest": math.exp(
                    -sum(v / max(values) * math.log(v / max(values)) for v in values if v)
                ),
            },
        )
        expect_close(f"the effective rank of {what}", yours, effective_rank(values), likely, atol=1e-6)
    expect_close(
        "the effective rank of a change of 0",
        answer([0.0, 0.0, 0.0]),
        0.0,
        "B starts at zero, so every LoRA begins with a change of 0: it has no direction at all",
    )
