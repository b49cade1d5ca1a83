"""What decides comparisons: how to divide times, how to subtract accuracies, and who is beaten by whom.

median_ratio        two things timed in turn        paired_difference   two methods, the same seeds
frontier            quality against cost            t_quantile          how many standard errors are "surely"
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t for 1, 2 … 9 degrees of freedom


def median_ratio(mine: Sequence[float], theirs: Sequence[float], warm_up: int = 0) -> float:
    """The median over the rounds, those to warm up left out, of my time over theirs in the same round.

    Raises ValueError if the rounds are not as many, or none is left.
    """
    return statistics.median(ratios(mine, theirs)[warm_up:])


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; all the same for a single value."""
    return tuple(statistics.quantiles(values, n=4, method="inclusive")) if len(values) > 1 else (values[0],) * 3


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, float]:
    """The mean of a - b over the seeds that both have, and its standard error (NaN for a single seed).

    Seeds that both share (the same order of the data, the same new head) cancel in the difference, so this is often
    far smaller than the two spreads suggest. Raises ValueError if they share none.
    """
    differences = [a[seed] - b[seed] for seed in a if seed in b]
    if not differences:
        raise ValueError(f"no seed in common: {sorted(a)} and {sorted(b)}")
    n = len(differences)
    error = statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.nan
    return statistics.fmean(differences), error


def t_quantile(pairs: int) -> float:
    """So many standard errors around a mean of `pairs` differences are a 95 % interval; infinite for a single one."""
    return math.inf if pairs < 2 else T_975[min(pairs - 1, len(T_975)) - 1]


def frontier(points: Iterable[tuple[str, float, float]]) -> list[str]:
    """Names of the points (name, cost, quality) that no other beats, cheapest first.

    Another beats a point if it costs no more, is no worse, and is better in one of the two. A quality that is NaN is
    never on the frontier.
    """
    found = [point for point in points if not math.isnan(point[2])]

    def beaten(cost: float, quality: float) -> bool:
        return any(c <= cost and q >= quality and (c < cost or q > quality) for _, c, q in found)

    kept = [point for point in found if not beaten(*point[1:])]
    return [name for name, _, _ in sorted(kept, key=lambda point: point[1])]
